import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import Write, small_rows
from lore.errors import ConfigError, DataError
from lore.preferences import Preferences, text_of
from lore.sources import load, read

ROW = {"user_id": "a", "prompt": "Hi", "chosen": "good", "rejected": "bad"}


def choices(preferences: Preferences) -> set[tuple[str, str, str, str]]:
    """User, prompt, chosen and rejected of every comparison, as texts."""
    return {
        (
            preferences.users[user],
            text_of(preferences.conversation(chosen)[0]),
            text_of(preferences.conversation(chosen)[1]),
            text_of(preferences.conversation(rejected)[1]),
        )
        for user, chosen, rejected in zip(preferences.user, preferences.chosen, preferences.rejected, strict=True)
    }


def test_jsonl_csv_parquet_dataset_and_folder_give_the_same_table(tmp_path: Path, jsonl: Write) -> None:
    import datasets

    rows = small_rows(users=2, prompts=3)
    path = jsonl(rows)
    with (tmp_path / "data.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    (tmp_path / "folder").mkdir()
    for name, part in (("a.jsonl", rows[:2]), ("b.jsonl", rows[2:])):
        (tmp_path / "folder" / name).write_text("\n".join(map(json.dumps, part)))
    expected = choices(load(path))
    assert len(expected) == 6
    for source in (
        tmp_path / "data.csv",
        tmp_path / "data.parquet",
        datasets.Dataset.from_list(rows),
        tmp_path / "folder",
    ):
        assert choices(load(source)) == expected
    assert load(path).fingerprint() == load(tmp_path / "data.csv").fingerprint()


def test_conversational_and_implicit_prompts_are_the_same_conversations() -> None:
    prompt = [{"role": "user", "content": "Hi"}]
    good, bad = ([{"role": "assistant", "content": text}] for text in ("good", "bad"))
    explicit = load([{"user_id": "a", "prompt": prompt, "chosen": good, "rejected": bad}])
    implicit = load([{"user_id": "a", "chosen": prompt + good, "rejected": prompt + bad}])
    assert choices(explicit) == choices(implicit) == choices(load([ROW])) == {("a", "Hi", "good", "bad")}


def test_every_text_is_stored_once() -> None:
    preferences = load([ROW, ROW | {"user_id": "b", "chosen": "bad", "rejected": "good"}, ROW | {"prompt": "Yo"}])
    assert len(preferences.responses) == 2
    assert preferences.rows == 4


def test_thumbs_become_ratings_and_ranked_lists_become_all_pairs() -> None:
    thumbs = load(
        [
            {"user_id": "a", "prompt": "p", "completion": text, "label": label}
            for text, label in (("x", True), ("y", "false"))
        ]
    )
    assert thumbs.ratings is not None
    assert thumbs.ratings.rating.tolist() == [1.0, 0.0]
    ranked = load([{"user_id": "a", "prompt": "p", "responses": ["x", "y", "z"]}])
    assert choices(ranked) == {("a", "p", "x", "y"), ("a", "p", "x", "z"), ("a", "p", "y", "z")}


def test_the_table_of_ranked_lists_with_ids_can_be_read_again(tmp_path: Path, jsonl: Write) -> None:
    lists = [
        {"user_id": "a", "prompt": "p", "responses": ["x", "y", "z"], "comparison_id": at} for at in ("one", "two")
    ]
    with pytest.raises(DataError, match="comparison_id"):
        load(jsonl([lists[0], lists[0] | {"responses": ["z", "y", "x"]}]))
    ranked = load(lists)
    assert ranked.extra["comparison_id"][:3] == ["one/0-1", "one/0-2", "one/1-2"]
    ranked.to_parquet(tmp_path / "table.parquet")
    again = load(tmp_path / "table.parquet")
    assert (again.fingerprint(), again.extra) == (ranked.fingerprint(), ranked.extra)


def test_what_has_no_prompt_or_an_empty_one_can_be_read_again(tmp_path: Path) -> None:
    said_nothing = [ROW | {"prompt": ""}, ROW | {"prompt": [], "chosen": ""}, ROW]
    ratings = [{"user_id": "a", "response": text, "rating": at} for at, text in enumerate(("x", "", "z"))]
    for rows in (said_nothing, ratings):
        table = load(rows)
        table.to_parquet(tmp_path / "table.parquet")
        assert load(tmp_path / "table.parquet").fingerprint() == table.fingerprint()


def test_weights_of_ratings_are_said_to_be_of_no_use() -> None:
    rating = {"user_id": "a", "prompt": "p", "response": "x", "rating": 1, "weight": 2}
    thumb = {"user_id": "a", "prompt": "p", "completion": "x", "label": True, "weight": 0.5}
    for row in (rating, thumb):
        assert [found.kind for found in read([row]).findings] == ["a rating's `weight` is not used"]
        assert not read([row | {"weight": 1}]).findings


def test_columns_can_be_mapped_and_others_are_kept() -> None:
    preferences = load(
        [{"worker": "a", "chosen": "x", "rejected": "y", "country": "NL"}], columns={"user_id": "worker"}
    )
    assert preferences.users == ["a"]
    assert preferences.extra == {"country": ["NL"]}
    with pytest.raises(DataError, match="no column 'labourer'"):
        load([ROW], columns={"user_id": "labourer"})


def test_explicit_groups_join_rows_and_weights_and_labels_are_read() -> None:
    rows = [ROW | {"group": "g", "weight": 2, "label": 0.8}, ROW | {"prompt": "Yo", "group": "g"}]
    preferences = load(rows)
    assert len(set(preferences.row_group.tolist())) == 1
    assert preferences.weight.tolist() == [2.0, 1.0]
    assert preferences.label.tolist() == [0.8, 1.0]


def test_a_saved_table_is_read_again_whole(tmp_path: Path) -> None:
    ratings = [{"user_id": "a", "prompt": "p", "response": text, "rating": 1.5} for text in "xyz"]
    mixed = [ROW | {"note": 1}, ROW | {"prompt": "other", "note": "two"}]
    for rows in (small_rows(2, 3), ratings, mixed):
        preferences = load(rows)
        preferences.to_parquet(tmp_path / "p.parquet")
        again = load(tmp_path / "p.parquet")
        assert choices(again) == choices(preferences)
        assert again.conversation_keys() == preferences.conversation_keys()
        assert len(again) == len(preferences)


def test_personalllm_rows_become_ratings_by_scorers() -> None:
    row = {"prompt": "p", "response_1": "x", "response_2": "y"}
    row |= {"response_1_m": 1.0, "response_2_m": 2.0, "response_1_n": 3.0, "response_2_n": None, "id": 7}
    reading = read([row])
    assert reading.preferences.users == ["m", "n"]
    assert len(reading.preferences) == 3
    assert [found.kind for found in reading.findings] == ["missing score"]


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
    reading = read(tmp_path)
    preferences = reading.preferences
    assert choices(preferences) == {
        ("u", "question 0", "a", "b"),
        ("u", "question 0", "a", "c"),
        ("u", "question 0\na\nquestion 1", "e", "d"),
    }
    assert len(set(preferences.row_group.tolist())) == 1
    assert [found.fatal for found in reading.findings] == [False, True]
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


def test_ratings_folder(tmp_path: Path) -> None:
    items = [{"item_id": "i1", "context": "", "response": "x"}, {"item_id": "i2", "response": "y"}]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, [*items, items[0]])))
    (tmp_path / "ratings.csv").write_text("user_id,item_id,rating\na,i1,1\na,i2,2\na,i9,1\n")
    reading = read(tmp_path)
    assert len(reading.preferences) == 2
    assert {found.kind for found in reading.findings} == {"`item_id` stands twice", "`item_id` is not in items.jsonl"}


BAD_ROWS = {
    "missing field `chosen`": {"user_id": "a", "rejected": "x", "prompt": ""},
    "null in `user_id`": ROW | {"user_id": None},
    "empty `user_id`": ROW | {"user_id": "  "},
    "`user_id` is a number": ROW | {"user_id": 1.5},
    "of different types": ROW | {"rejected": ["bad"]},
    "not of chat turns": ROW | {"chosen": ["good"], "rejected": ["bad"]},
    "empty list": ROW | {"chosen": [], "rejected": []},
    "unknown role 'human'": ROW | {"prompt": [{"role": "human", "content": "x"}]},
    "is a number where a text": ROW | {"prompt": 3},
    "`weight` is not a finite number that is not negative": ROW | {"weight": -1},
    "`label` is not a number from 0 to 1": ROW | {"label": 2},
    "control characters": ROW | {"chosen": "a\x00b"},
    "surrogate": ROW | {"chosen": "a\ud800b"},
    "longer than": ROW | {"chosen": "x" * 3_000_000},
}


@pytest.mark.parametrize("words", BAD_ROWS)
def test_a_bad_row_is_named_with_its_place_and_remedy(words: str) -> None:
    with pytest.raises(DataError, match=r"list, row 2: .*; ") as caught:
        load([ROW, BAD_ROWS[words]])
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"user_id": "a", "prompt": "p", "completion": "x", "label": "perhaps"}], "true or false"),
        ([{"user_id": "a", "responses": ["only"]}], "two or more"),
        ([{"user_id": "a", "response": "x", "rating": float("nan")}], "finite number"),
        ([{"user_id": "a", "response": "x", "rating": True}], "finite number"),
        ([{"user_id": "a", "text": "x"}], "columns not understood"),
        ([], "empty"),
        (["not a row"], "not a dictionary"),
        ([ROW | {"comparison_id": 1}, ROW | {"comparison_id": 1, "chosen": "better"}], "comparison_id"),
    ],
)
def test_bad_tables_are_refused(rows, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load(rows)


def test_bad_files_are_refused(tmp_path: Path, jsonl: Write) -> None:
    with pytest.raises(DataError, match="line 3: broken JSON"):
        load(jsonl([ROW, ROW, "{"]))
    with pytest.raises(DataError, match="not a JSON object"):
        load(jsonl([ROW, "[1]"]))
    with pytest.raises(DataError, match="broken JSON"):
        load(jsonl(["{"]))
    with pytest.raises(DataError, match="no such file"):
        load(tmp_path / "nothing.jsonl")
    for name, content, words in (
        ("x.pickle", b"", "unknown kind"),
        ("x.parquet", b"PAR1", "Parquet"),
        ("x.csv", b"user_id,chosen,rejected\na,b\n", "fields"),
        ("y.jsonl", b"\xff\xfe\n", "UTF-8"),
        ("z.jsonl", b"\n\n", "empty"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=words):
            load(tmp_path / name)
    with pytest.raises(DataError, match="mixes"):
        load(tmp_path)
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match="holds no file"):
        load(tmp_path / "void")
    with pytest.raises(ConfigError, match="format"):
        load([ROW], format="xml")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="one of them"):
        load({"train": []})


def test_several_kinds_of_fault_are_counted_together() -> None:
    with pytest.raises(DataError, match="1 more kinds of fault"):
        load([ROW, ROW | {"label": 9}, ROW | {"user_id": None}])
