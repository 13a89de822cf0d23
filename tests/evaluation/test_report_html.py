import torch

from lore.evaluation.report_html import distinct_directions, rendered


def test_responses_are_shown_as_markdown_that_can_load_and_link_to_nothing() -> None:
    shown = rendered(
        "**Yes**\n\n- one\n- two <script>alert(1)</script> ![x](https://a.example/x.png) [y](https://b.example)"
    )
    assert "<strong>Yes</strong>" in shown
    assert "<li>one</li>" in shown
    assert "<script" not in shown
    assert "<img" not in shown
    assert "<a " not in shown


def test_a_long_response_is_cut_at_a_word() -> None:
    shown = rendered("word " * 200)
    assert len(shown) < 340
    assert "word…" in shown


def test_directions_that_say_the_same_or_the_opposite_are_one_and_unused_ones_none() -> None:
    rng = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 50, generator=rng)
    rewards = torch.stack([one, -one + 0.01 * other, other, one + other], dim=1)
    share = torch.tensor([0.4, 0.2, 0.398, 0.002])
    columns, totals = zip(*distinct_directions(rewards, share), strict=True)
    assert columns == (0, 2)
    assert [round(total, 3) for total in totals] == [0.6, 0.398]
    assert len(distinct_directions(rewards, None)) == 3
