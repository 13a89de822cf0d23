from pathlib import Path

import pytest

from builders import Write
from data_formats_builders import ROW
from lore.data.formats import load
from lore.errors import ConfigError, DataError

BAD_ROWS = {
    "missing field `chosen`": {"user_id": "a", "rejected": "x", "prompt": ""},
    "null in `user_id`": ROW | {"user_id": None},
    "empty `user_id`": ROW | {"user_id": "  "},
    "`user_id` is a number": ROW | {"user_id": 1.5},
    "of different types": ROW | {"rejected": ["bad"]},
    "not of chat messages": ROW | {"chosen": ["good"], "rejected": ["bad"]},
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
        (["not a row"], "give dictionaries"),
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
