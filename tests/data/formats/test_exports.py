"""Files in the shapes of public data sets and tools, written by us: who chose what is what their fields mean."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_formats_builders import choices
from lore.data.formats import load, load_with_issues
from lore.data.formats.names import ExportFormat
from lore.data.preferences import Preferences
from lore.data.table import save_table
from lore.errors import DataError

EXPORTS = Path(__file__).parent / "exports"
NOBODY = {"user_id": None}

COMPARISONS: dict[str, tuple[dict[str, str | None], set[tuple[str, str, str, str]]]] = {
    "arena_100k.jsonl": ({}, {("j1", "Why?", "Because.", "No idea."), ("j2", "How?", "Badly.", "Slowly.")}),
    "arena_140k.jsonl": (NOBODY, {("all users", "Why?", "No idea.", "Because.")}),
    "arena_55k.jsonl": (NOBODY, {("all users", "Why?", "Because.\nReally?\nYes.", "No idea.\nReally?\n")}),
    "comparia.jsonl": ({}, {("v0", "Why?", "Because.", "No idea."), ("s1", "How?", "Badly.", "Slowly.")}),
    "open_webui.json": ({}, {("ann", "Why?", "Because.", "No idea."), ("bob", "Why?", "No idea.", "Because.")}),
    "openai.jsonl": ({"user_id": "metadata.user_id"}, {("ann", "Why?", "Because.", "No idea.")}),
    "swift.jsonl": ({}, {("ann", "Why?", "Because.", "No idea."), ("bob", "Why?", "No idea.", "Because.")}),
    "argilla.json": (
        {"left": "first", "right": "second"},
        {("u0", "Why?", "Because.", "No idea."), ("u1", "Why?", "No idea.", "Because.")},
    ),
    "argilla_ranking.json": ({}, {("u0", "Why?", "Because.", "No idea.")}),
    "label_studio.json": ({"left": "text1", "right": "text2"}, {("7", "Why?", "Because.", "No idea.")}),
    "helpsteer2.jsonl": (
        {"user_id": "annotator"},
        {("a0", "Why?", "Because.", "No idea."), ("a1", "How?", "Badly.", "Slowly.")},
    ),
    "helpsteer3.jsonl": (NOBODY, {("all users", "Why?", "Because.", "No idea.")}),
    "ultrafeedback_binarized.jsonl": (NOBODY, {("all users", "Why?", "Because.", "No idea.")}),
    "shp.jsonl": (
        NOBODY,
        {("all users", "Why?", "Because.", "No idea."), ("all users", "How?", "Slowly.", "Badly.")},
    ),
    "nectar.jsonl": (NOBODY, {("all users", "Why?", "Because.", "No idea.")}),
    "safe_rlhf.jsonl": (NOBODY, {("all users", "Why?", "Because.", "No idea.")}),
    "hh.jsonl": (NOBODY, {("all users", "Why?", "Because.", "No idea.")}),
}
RATINGS: dict[str, tuple[dict[str, str | None], list[tuple[str, str, float]]]] = {
    "helpsteer1.jsonl": (NOBODY, [("all users", "Because.", 4), ("all users", "No idea.", 1)]),
    "ultrafeedback.jsonl": (NOBODY, [("all users", "Because.", 8.5), ("all users", "No idea.", 2)]),
    "label_studio_ratings.json": ({"response": "text"}, [("7", "Because.", 4)]),
}
ALL: dict[str, tuple[dict[str, str | None], Any]] = {**COMPARISONS, **RATINGS}


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons_are_those_that_the_export_means(name: str) -> None:
    columns, expected = COMPARISONS[name]
    assert choices(load(EXPORTS / name, columns=columns)) == expected


@pytest.mark.parametrize("name", RATINGS)
def test_ratings_are_those_that_the_export_means(name: str) -> None:
    columns, expected = RATINGS[name]
    preferences = load(EXPORTS / name, columns=columns)
    ratings = preferences.ratings
    assert ratings is not None
    found = zip(ratings.user, ratings.row, ratings.rating, strict=True)
    assert [(preferences.users[user], said(preferences, row), rating) for user, row, rating in found] == expected


def said(preferences: Preferences, row: int) -> str:
    return preferences.conversation(row)[1][0][1]


@pytest.mark.parametrize("name", ALL)
def test_what_an_export_says_is_the_same_as_one_table_and_as_rows_of_that(name: str, tmp_path: Path) -> None:
    preferences = load(EXPORTS / name, columns=ALL[name][0])
    save_table(preferences, tmp_path / "table.parquet")
    again = load(tmp_path / "table.parquet")
    assert (again.fingerprint(), again.extra) == (preferences.fingerprint(), preferences.extra)
    rows = pq.read_table(tmp_path / "table.parquet").to_pylist()
    if preferences.ratings is None:
        assert choices(load(rows)) == choices(preferences)


@pytest.mark.parametrize("name", [name for name, (columns, _) in ALL.items() if "user_id" in columns])
def test_an_export_that_names_nobody_says_which_column_may(name: str) -> None:
    with pytest.raises(DataError, match=r'missing field `user_id`; name its column: `columns=\{"user_id": '):
        load(EXPORTS / name)


def test_ties_are_labels_of_one_half_and_counted_apart_from_both_bad() -> None:
    loaded = load_with_issues(EXPORTS / "arena_100k.jsonl")
    assert loaded.preferences.label.tolist() == [1.0, 0.5]
    assert [(issue.kind, issue.count) for issue in loaded.issues] == [("both responses are called bad", 1)]
    loaded = load_with_issues(EXPORTS / "comparia.jsonl")
    assert loaded.preferences.label.tolist() == [1.0, 0.5]
    assert [issue.kind for issue in loaded.issues] == ["ties"]


def test_of_four_responses_the_best_is_compared_with_each_other_and_turns_of_a_dialog_stay_together() -> None:
    preferences = load(EXPORTS / "community_alignment.jsonl")
    assert len(preferences) == 6
    assert ("a0", "Why?", "Because.", "Look.") in choices(preferences)
    assert ("a0", "Why?\nBecause.\nReally?", "Yes.", "Hm.") in choices(preferences)
    assert len(set(preferences.row_group.tolist())) == 1


def test_a_rated_answer_without_siblings_is_a_single_thumb(tmp_path: Path) -> None:
    feedback = json.loads((EXPORTS / "open_webui.json").read_text())
    for one in feedback:
        one["snapshot"]["chat"]["chat"]["history"]["messages"]["m0"]["childrenIds"] = ["m1"]
    (tmp_path / "export.json").write_text(json.dumps(feedback))
    preferences = load(tmp_path / "export.json")
    assert preferences.ratings is not None
    assert preferences.ratings.rating.tolist() == [1.0, 0.0]


def test_where_the_chosen_response_stood_is_kept() -> None:
    assert load(EXPORTS / "arena_100k.jsonl").extra["chosen_side"] == ["right", None]


BROKEN: dict[ExportFormat, list[dict[str, Any]]] = {
    "arena": [{"winner": "me", "conversation_a": [], "conversation_b": [], "judge": "j"}],
    "comparia": [
        {
            "visitor_id": "v",
            "model_a_name": "m",
            "model_b_name": "m",
            "chosen_model_name": "m",
            "conversation_a": [],
            "conversation_b": [],
        },
        {"visitor_id": "v", "model_a_name": "m", "model_b_name": "n", "chosen_model_name": "x", "conversation_a": []},
    ],
    "community_alignment": [
        {"annotator_id": "a", "first_turn_prompt": "Why?", "first_turn_preferred_response": "z"},
    ],
    "openai": [{"user_id": "a", "input": "Why?", "preferred_output": [], "non_preferred_output": []}],
    "swift": [{"user_id": "a", "messages": "Why?", "rejected_response": "x"}],
    "helpsteer": [{"user_id": "a", "prompt": "p", "response_1": "x", "response_2": "y", "preference_strength": 9}],
    "ultrafeedback": [{"user_id": "a", "instruction": "p", "completions": ["x"]}],
    "shp": [{"user_id": "a", "history": "p", "human_ref_A": "x", "human_ref_B": "y", "labels": 2}],
    "nectar": [{"user_id": "a", "prompt": "p", "answers": ["x"]}],
    "safe_rlhf": [{"user_id": "a", "prompt": "p", "response_0": "x", "response_1": "y", "better_response_id": 0.5}],
    "open_webui": [{"user_id": "a", "data": {"rating": 1}, "meta": {"message_id": "m"}, "snapshot": None}],
    "label_studio": [{"data": [], "annotations": []}],
    "argilla": [{"prompt": "p", "q.responses": [True], "q.responses.users": ["u"]}],
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_row_of_an_export_is_named_with_its_place(name: ExportFormat) -> None:
    for row in BROKEN[name]:
        with pytest.raises(DataError, match=r"list, row 1: .*; "):
            load([row], format=name)


def test_rankings_that_lost_their_ranks_are_no_rankings() -> None:
    """Argilla's client gives the names in the order of the options; the second row is as its server gives it."""
    record = {"prompt": "Why?", "first": "Because.", "second": "No idea.", "order.responses.users": ["u0"]}
    lost = record | {"order.responses": [["first", "second"]]}
    with pytest.raises(DataError, match=r"rankings without ranks, which Argilla's client drops"):
        load([lost])
    ranks = [[{"value": "first", "rank": 2}, {"value": "second", "rank": 1}]]
    loaded = load_with_issues([lost, record | {"order.responses": ranks}])
    assert ["without ranks" in issue.message for issue in loaded.issues] == [True]
    assert len(loaded.preferences) == 1
