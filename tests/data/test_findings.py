"""What `check` says beside faults of rows: each finding where it is planted, and none where it is not."""

import random
from typing import Any

import pytest

from lore.data.checks import check
from lore.data.formats import load
from lore.data.languages import language_of

ENGLISH = "this is the answer that you asked for, and it is as short as can be {}"
GERMAN = "das ist die Antwort, nach der Sie gefragt haben, und sie ist nicht lang {}"


def kinds(rows: list[dict[str, Any]]) -> set[str]:
    return {issue.kind for issue in check(load(rows)).issues}


def message(rows: list[dict[str, Any]], kind: str) -> str:
    return next(issue.message for issue in check(load(rows)).issues if issue.kind == kind)


def tossed(users: int = 6, prompts: int = 40) -> list[dict[str, Any]]:
    """Users who choose by a coin, between texts of many lengths."""
    rng = random.Random(0)
    rows = []
    for number in range(prompts):
        for user in range(users):
            sides = [f"{'word ' * rng.randrange(1, 9)}{number} {side}" for side in "ab"]
            rng.shuffle(sides)
            rows.append(
                {"user_id": f"u{user}", "prompt": f"Question {number}", "chosen": sides[0], "rejected": sides[1]}
            )
    return rows


def test_choices_by_a_coin_have_no_finding() -> None:
    assert kinds(tossed()) <= {"exact duplicates of another row", "a user chose both ways"}


def test_ids_that_look_alike_are_shown_as_they_differ() -> None:
    rows = tossed(1, 6)
    for row, user in zip(rows, ["ann", "ann ", "Ann", "an\u200bn", "Jos\xe9", "Jose\u0301"], strict=True):
        row["user_id"] = user
    said = message(rows, "user ids look alike")
    assert "6 user ids" in said
    assert r"'Jose\u0301'" in said


def test_prompts_that_hold_the_same_words_are_a_leak_unless_they_are_one_group() -> None:
    rows = tossed(2, 3)
    rows[2]["prompt"] = "question 0?"
    assert "'Question 0' and 'question 0?'" in message(rows, "prompts that say the same")
    assert "prompts that say the same" not in kinds([row | {"group": "g"} for row in rows])


def test_users_who_made_the_very_choices_of_another_are_found_and_users_of_like_taste_are_not() -> None:
    rng = random.Random(0)
    rows = []
    for user in range(12):
        for number in range(30):
            sides = ["a", "b"] if rng.random() < 0.6 else ["b", "a"]
            rows.append({"user_id": f"u{user}", "prompt": f"q{number}", "chosen": sides[0], "rejected": sides[1]})
    assert "users who are one" not in kinds(rows)
    twin = [row | {"user_id": "twin"} for row in rows if row["user_id"] == "u3"]
    assert "'u3', 'twin'" in message(rows + twin, "users who are one")
    alike = [row | {"user_id": f"v{user}"} for user in range(12) for row in rows[:3]]
    assert "users who are one" not in kinds(rows + alike)  # of three choices chance makes twins


def test_users_who_always_choose_one_side_or_the_longer_text_are_told_from_chance() -> None:
    rng = random.Random(0)
    rows = []
    for user in ("left", "coin", "few"):
        for number in range(40 if user != "few" else 3):
            sides = [f"{side * rng.randrange(1, 30)} {number}" for side in "ab"]
            winner = "left" if user != "coin" else rng.choice(["left", "right"])
            rows.append(
                {"user_id": user, "prompt": f"q{number}", "left": sides[0], "right": sides[1], "winner": winner}
            )
    assert "1 of 3 users" in message(rows, "users who always choose the left response")
    assert "('left')" in message(rows, "users who always choose the left response")
    longer = tossed()
    for row in longer[::6]:
        row["chosen"], row["rejected"] = sorted((row["chosen"], row["rejected"]), key=len, reverse=True)
    assert "('u0')" in message(longer, "users who always choose the longer response")


@pytest.mark.parametrize(("pace", "found"), [(0.2, True), (30.0, False)])
def test_answers_faster_than_one_can_read_are_said(pace: float, found: bool) -> None:
    rows = tossed(2, 30)
    for number, row in enumerate(rows):
        long = {side: row[side] + " and more" * 40 for side in ("chosen", "rejected")}
        rows[number] = row | long | {"timestamp": 1_700_000_000 + pace * number}
    assert ("users who answer too quickly" in kinds(rows)) is found


def test_responses_in_different_languages_or_scripts_are_said() -> None:
    pairs = [(ENGLISH, GERMAN), (GERMAN, ENGLISH), (ENGLISH, "да {}"), (ENGLISH, ENGLISH + "!")]
    rows = [
        {"user_id": "u", "prompt": f"q{n}", "chosen": a.format(n), "rejected": b.format(n)}
        for n, (a, b) in enumerate(pairs)
    ]
    assert "rows 1, 2, 3: responses" in message(rows, "responses in different languages")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (ENGLISH, "English"),
        (GERMAN, "German"),
        ("les chats sont dans la maison et les chiens ne sont pas avec une dame", "French"),
        ("Привет, мир", "CYRILLIC"),
        ("東京はとても大きい", "CJK"),
        ("x = 3", None),
        ("🙂", None),
        ("", None),
    ],
)
def test_scripts_and_languages_are_told_where_they_can_be(text: str, language: str | None) -> None:
    assert language_of(text) == language


def test_data_without_prompts_are_told_which_column_may_be_the_prompt() -> None:
    rows = [{"user_id": "a", "question": f"q{n}", "chosen": "x", "rejected": "y"} for n in range(4)]
    said = {issue.kind: issue.message for issue in check(load(rows), to_split=True).issues}
    assert '`columns={"prompt": "question"}`' in said["no prompts:"]
    for row in rows:
        row[" prompt"] = row.pop("question")
    said = {issue.kind: issue.message for issue in check(load(rows), to_split=True).issues}
    assert '`columns={"prompt": " prompt"}`' in said["no prompts:"]
    bare = [{"user_id": "a", "chosen": "x", "rejected": f"y{n}"} for n in range(4)]
    said = {issue.kind: issue.message for issue in check(load(bare), to_split=True).issues}
    assert "`group` column" in said["no prompts:"]


def test_every_fatal_finding_begins_with_its_file(tmp_path: Any) -> None:
    path = tmp_path / "data.csv"
    path.write_text("user_id,prompt,chosen,rejected\na,p,x,x\n")
    fatal = check(load(path), to_split=True).fatal
    assert len(fatal) == 3
    assert all(issue.message.startswith(str(path)) for issue in fatal)
