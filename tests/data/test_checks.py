from pathlib import Path
from typing import Any

import pytest

from builders import small_rows
from lore.data.checks import check
from lore.data.formats import load, load_with_issues

ROW = {"user_id": "a", "prompt": "Hi", "chosen": "good", "rejected": "bad"}


def kinds(rows) -> dict[str, int]:
    return {found.kind: found.count for found in check(load(rows)).issues}


def test_counts_are_those_of_the_file() -> None:
    counts = check(load(small_rows(users=4, prompts=6))).counts
    assert (counts.users, counts.comparisons, counts.prompts) == (4, 24, 6)
    assert counts.per_user == [6.0] * 5
    assert counts.longer_chosen == 0.5
    assert not counts.ratings


def test_disagreement_is_the_share_of_pairs_of_users_who_chose_differently() -> None:
    swapped = ROW | {"chosen": "bad", "rejected": "good"}
    rows = [ROW, ROW | {"user_id": "b"}, swapped | {"user_id": "c"}]
    assert check(load(rows)).counts.disagreement == pytest.approx(2 / 3)
    assert check(load([ROW])).counts.disagreement is None
    assert check(load([ROW, swapped])).counts.disagreement is None
    assert check(load([*rows, swapped])).counts.disagreement == 1  # a is on no side now; b and c differ


def test_a_choice_told_by_its_other_side_is_the_same_choice() -> None:
    longer = ROW | {"chosen": "longer"}
    told = {**longer, "chosen": "bad", "rejected": "longer", "label": 0.0}
    for one, other in ((longer, told), (told, longer)):
        counts = check(load([one, other | {"user_id": "b"}])).counts
        assert counts.disagreement == 0
        assert counts.longer_chosen == 1
    assert check(load([longer | {"label": 0.5}])).counts.longer_chosen == 0.5


def test_disagreement_of_ratings_counts_strict_orders_of_two_users() -> None:
    ratings = {"a": (1, 2, 3), "b": (3, 2, 1), "c": (1, 2, 2)}
    rows = [
        {"user_id": user, "response": f"text {item}", "rating": value}
        for user, values in ratings.items()
        for item, value in enumerate(values)
    ]
    # Pairs (0,1) and (0,2): a and c agree, b not: 2 of 3 each. Pair (1,2): a against b: 1 of 1.
    assert check(load(rows)).counts.disagreement == pytest.approx(5 / 7)


def test_faults_that_do_not_stop_training_are_counted() -> None:
    swapped = ROW | {"chosen": "bad", "rejected": "good"}
    equal = {"user_id": "b", "prompt": "x", "chosen": "same", "rejected": "same"}
    found = kinds([ROW, ROW, swapped, equal, {"user_id": "c", "prompt": "y", "chosen": "", "rejected": "z"}])
    assert found["exact duplicates of another row"] == 1
    assert found["a user chose both ways"] == 1
    assert found["chosen and rejected are equal"] == 1
    assert found["users with fewer than two comparisons"] == 2
    assert found["empty responses"] == 1


def test_faults_of_ratings_are_counted() -> None:
    rows = [{"user_id": user, "response": text, "rating": 1.0} for user in "ab" for text in "xyx"]
    found = kinds(rows)
    assert found["a user rated the same item again"] == 2
    assert found["users without a strict preference"] == 2


@pytest.mark.parametrize(
    ("render", "words"),
    [
        (lambda text: f"['{text}']", "begins with"),
        (lambda text: f"{text} (B)", "ends with"),
        (lambda text: f"{text}\n", "white space"),
    ],
)
def test_form_that_gives_the_answer_away_is_fatal(render, words: str) -> None:
    rows = [
        {
            "user_id": f"u{at % 3}",
            "prompt": f"p{at}",
            "chosen": f"{chr(97 + at % 26)}{at} c{at}",
            "rejected": render(f"{chr(99 + at % 20)} {at} r"),
        }
        for at in range(40)
    ]
    fatal = check(load(rows)).fatal
    assert fatal
    assert any(words in found.message for found in fatal)
    assert "form" in fatal[0].message


def test_form_is_not_judged_on_few_texts_nor_where_sides_are_alike() -> None:
    few = [ROW | {"prompt": f"p{at}", "chosen": f"Yes {at}", "rejected": f"No {at}"} for at in range(10)]
    assert not check(load(few)).fatal
    alike = [
        {"user_id": "a", "prompt": f"p{at}", "chosen": f"Sure, {at} good", "rejected": f"Sure, {at * 7} bad"}
        for at in range(50)
    ]
    assert not [found for found in check(load(alike)).fatal if "begins" in found.message]


def test_row_findings_come_first_when_they_are_fatal() -> None:
    reading = load_with_issues([ROW, ROW | {"user_id": None}])
    report = check(reading.preferences, reading.issues)
    assert report.fatal[0].kind == "null in `user_id`"
    assert report.to_json()["counts"]["users"] == 1
    empty = load_with_issues([ROW | {"user_id": None}])
    assert check(empty.preferences, empty.issues).counts.comparisons == 0


@pytest.mark.parametrize(
    ("name", "comparisons", "disagreement"),
    [
        ("dices350", 43_050, 0.25),
        ("jester5k", 145_511, 0.45),
        ("pandalm/comparisons.jsonl", 2_671, None),
        ("ukpconvarg1/comparisons.jsonl", 16_325, None),
    ],
)
def test_the_public_sets_are_accepted(
    data_folder: Path, name: str, comparisons: int, disagreement: float | None
) -> None:
    reading = load_with_issues(data_folder / name)
    report = check(reading.preferences, reading.issues)
    assert not report.fatal
    assert report.counts.comparisons == comparisons
    if disagreement is not None:
        assert report.counts.disagreement == pytest.approx(disagreement, abs=0.01)


@pytest.mark.parametrize("role", [["a"], 3, None])
def test_a_role_that_is_no_text_is_an_issue(role: Any) -> None:
    prompt = [{"role": role, "content": "hello"}]
    loaded = load_with_issues([{"user_id": "u", "prompt": prompt, "chosen": "a", "rejected": "b"}])
    assert [issue.kind for issue in loaded.issues] == [f"unknown role {role!r} in `prompt`"]
