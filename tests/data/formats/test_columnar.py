import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lore.data.builder import PreferencesBuilder
from lore.data.formats import columnar as plain
from lore.data.formats import load_with_issues
from lore.data.issues import RowRef
from lore.errors import DataError

ROW = {"user_id": "a", "prompt": "Hi", "chosen": "good\n", "rejected": "bad"}

texts = st.text(st.sampled_from('ab \n\t\x00\x7fé\u2028😀\ud800"\\'), max_size=3)
values = st.one_of(texts, st.none(), st.integers(0, 2), st.just([{"role": "assistant", "content": "a"}]), st.just(True))
plain_rows = st.fixed_dictionaries(
    {"user_id": st.sampled_from("uvw"), "chosen": texts, "rejected": texts}, optional={"prompt": texts}
)
odd_rows = st.fixed_dictionaries({}, optional=dict.fromkeys((*ROW, "weight", "other"), values))


def outcome(path: Path) -> tuple[Any, ...]:
    """All that a caller can see of reading a file."""
    try:
        reading = load_with_issues(path)
    except DataError as error:
        return ("refused", str(error))
    table = reading.preferences
    origins = [table.origin.describe([RowRef(place)], 1) for place in table.row_ref]
    return table.fingerprint(), table.users, table.prompts, table.responses, origins, reading.issues


def outcome_by_rows(path: Path) -> tuple[Any, ...]:
    """The same, with no file read by columns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "SUFFIXES", frozenset())
        return outcome(path)


def test_columns_give_what_rows_give(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("plain") / "data.jsonl"

    @given(st.lists(st.one_of(plain_rows, plain_rows, odd_rows), max_size=5))
    def same(rows: list[dict[str, Any]]) -> None:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert outcome(path) == outcome_by_rows(path)

    same()


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(json.dumps(ROW) for _ in range(3)),
        json.dumps(ROW) + "\n\n" + json.dumps(ROW),
        json.dumps(ROW) + json.dumps(ROW) + "\n\n",
        json.dumps(ROW, indent=1),
        '{"user_id": "a", "user_id": "b", "chosen": "x", "rejected": "y"}\n',
        '\ufeff{"user_id": "a", "chosen": "x", "rejected": "y"}\n',
        '{"user_id": "2020-01-01", "chosen": "2020-01-01", "rejected": "y"}\n',
        '{"user_id": 3, "prompt": null, "chosen": "x", "rejected": "y"}\r\n',
        "",
        "[1]\n",
        '{"user_id": "a", "chosen": "x", "rejected": "y"',
    ],
)
def test_lines_of_all_kinds_are_read_alike(tmp_path: Path, text: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(text, encoding="utf-8")
    assert outcome(path) == outcome_by_rows(path)


def test_plain_files_are_read_by_columns_and_others_left_alone(tmp_path: Path) -> None:
    rows = [ROW | {"user_id": user} for user in "ab"]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    for file in (path, tmp_path / "data.parquet"):
        builder = PreferencesBuilder()
        assert plain.parse_file(file, builder)
        assert builder.build().fingerprint() == load_with_issues(rows).preferences.fingerprint()
    pq.write_table(pa.Table.from_pylist([row | {"weight": 2.0} for row in rows]), tmp_path / "data.parquet")
    path.write_bytes(b'{"user_id": "a", "chosen": "\xff", "rejected": "y"}\n')
    for file in (path, tmp_path / "data.parquet"):
        assert not plain.parse_file(file, PreferencesBuilder())
