from hypothesis import given
from hypothesis import strategies as st

from lore.embedding.batches import batches, groups


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 2_000))
def test_batches_hold_everything_once_within_the_budget_and_with_little_padding(
    lengths: list[int], budget: int
) -> None:
    found = list(batches(lengths, budget))
    assert sorted(at for batch in found for at in batch) == list(range(len(lengths)))
    for batch in found:
        longest, total = max(lengths[at] for at in batch), sum(lengths[at] for at in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget
        assert total >= 0.95 * len(batch) * longest


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=60), max_size=20), st.integers(0, 5))
def test_groups_hold_everything_once_and_share_what_they_say(tokens: list[list[int]], preamble: int) -> None:
    found, alone = groups(tokens, preamble)
    assert sorted([*alone, *(at for group in found for at in group.rows)]) == list(range(len(tokens)))
    for group in found:
        assert len(group.rows) > 1
        assert len({tuple(tokens[at][: group.shared]) for at in group.rows}) == 1
        assert all(len(tokens[at]) > group.shared for at in group.rows)


def test_eight_responses_to_each_prompt_make_one_group_each() -> None:
    prompts = [[9] * 30 + [prompt] * 50 for prompt in range(4)]
    tokens = [prompt + [5, answer] * 10 for answer in range(8) for prompt in prompts]
    found, alone = groups(tokens, preamble=30)
    assert not alone
    assert sorted(len(group.rows) for group in found) == [8] * 4
    assert all(group.shared >= 80 for group in found)
