import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from builders import Write, small_rows
from data_formats_builders import ROW, choices
from lore.data.formats import load, load_with_issues
from lore.data.table import save_table
from lore.errors import DataError


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
    save_table(ranked, tmp_path / "table.parquet")
    again = load(tmp_path / "table.parquet")
    assert (again.fingerprint(), again.extra) == (ranked.fingerprint(), ranked.extra)


def test_what_has_no_prompt_or_an_empty_one_can_be_read_again(tmp_path: Path) -> None:
    said_nothing = [ROW | {"prompt": ""}, ROW | {"prompt": [], "chosen": ""}, ROW]
    ratings = [{"user_id": "a", "response": text, "rating": at} for at, text in enumerate(("x", "", "z"))]
    for rows in (said_nothing, ratings):
        table = load(rows)
        save_table(table, tmp_path / "table.parquet")
        assert load(tmp_path / "table.parquet").fingerprint() == table.fingerprint()


def test_weights_of_ratings_are_said_to_be_of_no_use() -> None:
    rating = {"user_id": "a", "prompt": "p", "response": "x", "rating": 1, "weight": 2}
    thumb = {"user_id": "a", "prompt": "p", "completion": "x", "label": True, "weight": 0.5}
    for row in (rating, thumb):
        assert [found.kind for found in load_with_issues([row]).issues] == ["a rating's `weight` is not used"]
        assert not load_with_issues([row | {"weight": 1}]).issues


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
        save_table(preferences, tmp_path / "p.parquet")
        again = load(tmp_path / "p.parquet")
        assert choices(again) == choices(preferences)
        assert again.conversation_keys() == preferences.conversation_keys()
        assert len(again) == len(preferences)


def test_ratings_folder(tmp_path: Path) -> None:
    items = [{"item_id": "i1", "context": "", "response": "x"}, {"item_id": "i2", "response": "y"}]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, [*items, items[0]])))
    (tmp_path / "ratings.csv").write_text("user_id,item_id,rating\na,i1,1\na,i2,2\na,i9,1\n")
    reading = load_with_issues(tmp_path)
    assert len(reading.preferences) == 2
    assert {found.kind for found in reading.issues} == {"`item_id` stands twice", "`item_id` is not in items.jsonl"}
