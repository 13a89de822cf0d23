import bz2
import csv
import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from builders import small_rows
from data_formats_builders import ROW
from lore.data.formats import load, load_with_issues
from lore.errors import ConfigError, DataError

ROWS = small_rows(users=2, prompts=3)
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
EXPECTED = load(ROWS).fingerprint()


def table(delimiter: str, header: str | None = None) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ROWS[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue() if header is None else text.getvalue().replace(delimiter.join(ROWS[0]), header, 1)


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data/rows.jsonl", LINES)
        archive.writestr("__MACOSX/rows.jsonl", "nothing")
        archive.writestr("README.md", "about")


def saved_to_disk(path: Path) -> None:
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(path)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "lines.jsonl": lambda path: path.write_text(LINES),
    "blank_lines.jsonl": lambda path: path.write_text("\n" + LINES.replace("\n", "\n\n")),
    "lines.ndjson": lambda path: path.write_text(LINES),
    "list.json": lambda path: path.write_text(json.dumps(ROWS)),
    "indented.json": lambda path: path.write_text(json.dumps(ROWS, indent=2)),
    "under_a_key.json": lambda path: path.write_text(json.dumps({"version": 1, "rows": ROWS})),
    "under_a_key_indented.json": lambda path: path.write_text(json.dumps({"rows": ROWS}, indent=2)),
    "packed.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES.encode())),
    "packed.jsonl.bz2": lambda path: path.write_bytes(bz2.compress(LINES.encode())),
    "packed.jsonl.zst": lambda path: path.write_bytes(pa.compress(LINES.encode(), codec="zstd", asbytes=True)),
    "packed.csv.gz": lambda path: path.write_bytes(gzip.compress(table(",").encode())),
    "rows.zip": zipped,
    "commas.csv": lambda path: path.write_text(table(",")),
    "semicolons.csv": lambda path: path.write_text(table(";")),
    "tabs.tsv": lambda path: path.write_text(table("\t")),
    "tabs.csv": lambda path: path.write_text(table("\t")),
    "header_with_spaces.csv": lambda path: path.write_text(table(",", ", ".join(ROWS[0]))),
    "byte_order_mark.csv": lambda path: path.write_text(table(","), encoding="utf-8-sig"),
    "saved_to_disk": saved_to_disk,
}


@pytest.mark.parametrize("name", WRITERS)
def test_rows_are_the_same_however_they_are_written(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    assert load(tmp_path / name).fingerprint() == EXPECTED


@pytest.mark.parametrize("name", ["rows.parquet.gz", "list.jsonl"])
def test_packed_parquet_and_a_list_in_jsonl_are_read(name: str, tmp_path: Path) -> None:
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), content)
    (tmp_path / "rows.parquet.gz").write_bytes(gzip.compress(content.getvalue()))
    (tmp_path / "list.jsonl").write_text(json.dumps(ROWS))
    assert load(tmp_path / name).fingerprint() == EXPECTED


def test_a_folder_is_read_with_its_folders_and_without_what_is_hidden(tmp_path: Path) -> None:
    for name, text in (
        ("a/part-0.jsonl", LINES[: LINES.index("\n") + 1]),
        ("b/part-1.jsonl", LINES[LINES.index("\n") + 1 :]),
        (".backup.jsonl", LINES),
        (".git/rows.jsonl", LINES),
        ("_old/rows.jsonl", LINES),
        ("README.md", "about"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert load(tmp_path).fingerprint() == EXPECTED


def test_data_frames_and_arrow_tables_are_read_like_rows() -> None:
    frame = pd.DataFrame(ROWS)
    for source in (frame, pa.Table.from_pylist(ROWS), frame.to_dict("records"), FakePolars()):
        assert load(source).fingerprint() == EXPECTED
    frame["weight"] = [None, 2.0, *[1.0] * (len(ROWS) - 2)]
    frame["user_id"] = [7 if row["user_id"] == "u0" else 8 for row in ROWS]
    preferences = load(frame)
    assert preferences.users == ["7", "8"]
    assert preferences.weight[:2].tolist() == [1.0, 2.0]


class FakePolars:
    """The one method of a polars data frame that is read."""

    def iter_rows(self, *, named: bool) -> Any:
        assert named
        return iter(ROWS)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("latin.csv", table(",").replace("apple", "äpfel", 1).encode("latin-1"), r"line 2: byte 0xe4 is not UTF-8"),
        ("cut.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:-20], "cannot be read"),
        ("no.zip", b"PK", "not a readable zip file"),
        ("empty.zip", b"PK\x05\x06" + bytes(18), "unknown kind of file"),
        ("x.txt.gz", gzip.compress(b"x", mtime=0), "unknown kind of file"),
        ("twice.csv", b"user_id,chosen,chosen\na,b,c\n", "'chosen' stands twice"),
        ("quotes.csv", table(",").replace("\r\n", ",more\r\n", 2).encode(), "5 fields where the header has 4|fields"),
        ("list_of_texts.json", b'["a", "b"]', "item 1, 2|items 1, 2: not a JSON object"),
        ("broken.json", json.dumps(ROWS, indent=1)[:-5].encode(), "broken JSON|not a JSON object"),
        ("empty.csv", b"", "is empty"),
        ("header.csv", b"user_id,chosen,rejected\n", "is empty"),
        ("x.arrow", b"ARROW", "not a readable Arrow stream"),
        ("dataset_dict/dataset_dict.json", b"{}", "a folder of several datasets"),
    ],
)
def test_files_that_cannot_be_read_are_refused_with_the_reason(
    name: str, content: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        load(tmp_path / name.partition("/")[0])


def test_another_encoding_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(table(";").replace("apple", "äpfel").encode("latin-1"))
    assert "äpfel" in load(tmp_path / "x.csv", encoding="latin-1").responses[0][0][1]
    (tmp_path / "x.csv").write_text(table(","), encoding="utf-16")
    assert load(tmp_path / "x.csv", encoding="utf-16").fingerprint() == EXPECTED
    with pytest.raises(ConfigError, match="`encoding`"):
        load(tmp_path / "x.csv", encoding="klingon")


def test_bad_rows_can_be_left_out_and_are_counted(tmp_path: Path) -> None:
    without_user = {name: value for name, value in ROW.items() if name != "user_id"}
    path = tmp_path / "x.jsonl"
    path.write_text(LINES + json.dumps(without_user) + "\n{\n" + json.dumps(ROW | {"chosen": "\x00"}) + "\n")
    with pytest.raises(DataError, match="missing field `user_id`"):
        load(path)
    loaded = load_with_issues(path, skip_bad=True)
    assert loaded.preferences.fingerprint() == EXPECTED
    assert [(issue.fatal, issue.count) for issue in loaded.issues] == [(False, 1)] * 3
    assert all("it is left out" in issue.message for issue in loaded.issues)


def test_values_inside_objects_can_be_named() -> None:
    rows = [{**ROW, "user_id": "x", "meta": {"by": {"id": 7}}, "a.b": "dotted"}]
    assert load(rows, columns={"user_id": "meta.by.id"}).users == ["7"]
    assert load(rows, columns={"user_id": "a.b"}).users == ["dotted"]
    with pytest.raises(DataError, match=r"no column 'meta\.by\.name'"):
        load(rows, columns={"user_id": "meta.by.name"})


def test_a_column_that_says_who_won_is_never_ignored() -> None:
    rows = [{"user_id": "a", "a": "x", "b": "y", "winner": "b"}]
    with pytest.raises(DataError, match="'winner' seems to say which side won"):
        load(rows, columns={"chosen": "a", "rejected": "b"})
    preferences = load(rows, columns={"left": "a", "right": "b"})
    assert preferences.conversation(int(preferences.chosen[0]))[1] == (("assistant", "y"),)


def test_columns_that_are_almost_right_are_named() -> None:
    with pytest.raises(DataError, match=r"chosen \(did you mean 'Chosen'\?\)"):
        load([{"user_id": "a", "Chosen": "x", "Rejected": "y"}])
    with pytest.raises(DataError, match="did you mean 'worker_id'"):
        load([{"worker_id": "a", "chosen": "x", "rejected": "y"}], columns={"user_id": "worker"})
