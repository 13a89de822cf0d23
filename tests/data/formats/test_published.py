import json
from pathlib import Path

import pytest

from data_formats_builders import ROW, choices
from lore.data.formats import load, load_with_issues
from lore.errors import DataError


def test_personalllm_rows_become_ratings_by_scorers() -> None:
    row = {"prompt": "p", "response_1": "x", "response_2": "y"}
    row |= {"response_1_m": 1.0, "response_2_m": 2.0, "response_1_n": 3.0, "response_2_n": None, "id": 7}
    reading = load_with_issues([row])
    assert reading.preferences.users == ["m", "n"]
    assert len(reading.preferences) == 3
    assert [found.kind for found in reading.issues] == ["missing score"]


def test_prism_gives_a_comparison_for_each_reply_that_was_not_chosen(tmp_path: Path) -> None:
    def turn(number: int, *replies: tuple[str, bool]) -> list[dict[str, object]]:
        said = {"turn": number, "role": "user", "content": f"question {number}"}
        return [said, *({"turn": number, "role": "model", "content": c, "if_chosen": chosen} for c, chosen in replies)]

    history = turn(0, ("a", True), ("b", False), ("c", False)) + turn(1, ("d", False), ("e", True))
    undecided = turn(0, ("a", True), ("b", True))
    lines = [
        {"user_id": "u", "conversation_id": "c0", "conversation_history": history},
        {"user_id": "v", "conversation_id": "c1", "conversation_history": undecided},
        {"user_id": None, "conversation_id": "c2", "conversation_history": history},
    ]
    (tmp_path / "conversations.jsonl").write_text("\n".join(map(json.dumps, lines)))
    reading = load_with_issues(tmp_path)
    preferences = reading.preferences
    assert choices(preferences) == {
        ("u", "question 0", "a", "b"),
        ("u", "question 0", "a", "c"),
        ("u", "question 0\na\nquestion 1", "e", "d"),
    }
    assert len(set(preferences.row_group.tolist())) == 1
    assert [found.fatal for found in reading.issues] == [False, True]
    with pytest.raises(DataError, match="folder"):
        load([ROW], format="prism")
    (tmp_path / "conversations.jsonl").rename(tmp_path / "survey.jsonl")
    with pytest.raises(DataError, match="conversations"):
        load(tmp_path)


def test_tldr_rows_are_choices_of_workers() -> None:
    row = {"worker": "w", "info": {"post": "text"}, "summaries": [{"text": "s0"}, {"text": "s1"}], "choice": 1}
    assert choices(load([row])) == {("w", "text", "s1", "s0")}
    with pytest.raises(DataError, match="summaries"):
        load([row | {"summaries": []}])
