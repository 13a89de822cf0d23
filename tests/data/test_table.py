import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_formats_builders import ROW
from lore.data.checks import check
from lore.data.formats import load, load_with_issues
from lore.data.table import json_columns, save_table
from lore.errors import DataError

# One row of each format that is read by rows; `n` makes each its own.
ROWS: dict[str, Any] = {
    "comparisons": lambda n: {"user_id": f"u{n % 3}", "prompt": f"p{n % 2}", "chosen": f"x{n}", "rejected": "y"},
    "pairwise": lambda n: {
        "user_id": "u",
        "prompt": f"p{n}",
        "left": "x",
        "right": "y",
        "winner": ["left", "tie"][n % 2],
    },
    "unpaired": lambda n: {"user_id": "u", "prompt": "p", "completion": f"x{n}", "label": n % 2 == 0},
    "ranked": lambda n: {"user_id": "u", "prompt": f"p{n}", "responses": ["x", f"y{n}", "z"]},
    "ratings": lambda n: {"user_id": f"u{n % 2}", "prompt": "p", "response": f"x{n}", "rating": n / 3},
    "tldr": lambda n: {
        "worker": "w",
        "info": {"post": f"p{n}"},
        "summaries": [{"text": "x"}, {"text": "y"}],
        "choice": n % 2,
    },
}
OURS = [
    "user_id",
    "prompt",
    "chosen",
    "rejected",
    "completion",
    "label",
    "response",
    "responses",
    "rating",
    "weight",
    "group",
    "left",
    "right",
    "winner",
    "row",
    "chosen_row",
    "extra.x",
    "comparison_id",
    "timestamp",
    "split",
]
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.text(max_size=3),
    st.just("half \ud83d"),
    st.just({}),
    st.just({"a": {}}),
    st.just([1, "a"]),
    st.just(datetime.datetime(2026, 5, 1, 10, tzinfo=datetime.UTC)),
    st.just(datetime.date(2026, 5, 1)),
    st.dictionaries(st.sampled_from("ab"), st.integers(0, 3), max_size=2),
    st.lists(st.integers(0, 3), max_size=2),
)


def plain(value: Any) -> Any:
    """What a value is after it went through JSON, if it had to."""
    return str(value) if isinstance(value, datetime.date) else value


@pytest.mark.parametrize("name", ROWS)
def test_what_is_read_again_is_what_was_read_whatever_users_brought_along(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("table") / "table.parquet"
    others = [column for column in OURS if column not in ROWS[name](0)]
    if name in ("comparisons", "ranked"):
        others.remove("winner")  # which may contradict the order, and is refused

    @given(st.lists(st.dictionaries(st.sampled_from(others), values, max_size=4), min_size=1, max_size=4))
    def same(brought: list[dict[str, Any]]) -> None:
        # What our own optional fields may hold is checked elsewhere; here they are columns of somebody's.
        read = {"weight", "group", "label", "comparison_id"}
        rows = [
            ROWS[name](n) | {key: one for key, one in extra.items() if key not in read}
            for n, extra in enumerate(brought)
        ]
        preferences = load(rows, format=name)  # type: ignore[arg-type]
        save_table(preferences, path)
        again = load(path)
        assert again.fingerprint() == preferences.fingerprint()
        assert again.users == preferences.users
        assert again.extra.keys() == preferences.extra.keys()
        for column, expected in preferences.extra.items():
            found = again.extra[column]
            assert found == expected or list(map(plain, found)) == list(map(plain, expected))
        save_table(again, path)
        assert load(path).fingerprint() == preferences.fingerprint()

    same()


def test_thumbs_with_a_rating_column_are_not_ratings_when_read_again(tmp_path: Path) -> None:
    rows = [
        {"user_id": "u", "prompt": "p", "completion": text, "label": liked, "rating": 1 - liked}
        for text, liked in (("good", True), ("bad", False))
    ]
    preferences = load(rows)
    save_table(preferences, tmp_path / "t.parquet")
    ratings = load(tmp_path / "t.parquet").ratings
    assert ratings is not None
    assert ratings.rating.tolist() == [1.0, 0.0]


def test_columns_that_arrow_cannot_hold_are_kept_as_json_and_said(tmp_path: Path) -> None:
    held = {"number": 1, "text": "x", "listed": [1]}
    odd = {"empty": {}, "nested": {"a": {}}, "half": "\ud83d", "large": 2**70}
    rows = [ROW | held | odd | {"sign": -3}, ROW | held | odd | {"chosen": "x", "sign": 2**63 + 5}]
    preferences = load(rows)
    assert json_columns(preferences) == ["empty", "nested", "half", "large", "sign"]
    report = check(preferences)
    assert not report.fatal
    assert "5 columns" in next(issue.message for issue in report.issues if "JSON texts" in issue.message)
    save_table(preferences, tmp_path / "t.parquet")
    assert load(tmp_path / "t.parquet").extra == preferences.extra


def test_the_table_is_one_that_other_tools_read(tmp_path: Path) -> None:
    save_table(load([ROW | {"chosen": "better", "country": "NL"}]), tmp_path / "t.parquet")
    [row] = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert row == {
        "user_id": "a",
        "prompt": [{"role": "user", "content": "Hi"}],
        "chosen": [{"role": "assistant", "content": "better"}],
        "rejected": [{"role": "assistant", "content": "bad"}],
        "weight": 1.0,
        "label": 1.0,
        "group": 0,
        "chosen_row": 0,
        "rejected_row": 1,
        "extra.country": "NL",
    }


def test_a_rated_item_keeps_its_number_and_unrated_ones_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text("".join(f'{{"item_id": "i{n}", "response": "x{n}"}}\n' for n in range(4)))
    (tmp_path / "ratings.csv").write_text("user_id,item_id,rating\nb,i3,1\na,i1,2\nb,i1,3\n")
    preferences = load(tmp_path)
    assert [text for ((_, text),) in preferences.responses] == ["x1", "x3"]
    save_table(preferences, tmp_path / "t.parquet")
    assert load(tmp_path / "t.parquet").fingerprint() == preferences.fingerprint()


def test_damaged_tables_and_newer_ones_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    save_table(load([ROW]), path)
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({b"lore_format": b"2"}), path)
    with pytest.raises(DataError, match="format 2 of a table"):
        load(path)
    metadata = table.schema.metadata
    for column, changed in (
        ("chosen", table.drop_columns(["chosen"])),
        ("weight", table.set_column(4, "weight", pa.array([1]))),
        ("label", table.set_column(5, "label", pa.array([float("nan")]))),
        ("group", table.set_column(6, "group", pa.array([None], type=pa.int64()))),
    ):
        pq.write_table(changed.replace_schema_metadata(metadata), path)
        with pytest.raises(DataError, match=f"column `{column}`"):
            load(path)


def test_columns_that_are_named_are_read_from_a_table_as_from_any_file(tmp_path: Path) -> None:
    save_table(load([ROW | {"worker": "w"}]), tmp_path / "t.parquet")
    assert load(tmp_path / "t.parquet", columns={"user_id": "extra.worker"}).users == ["w"]
    assert load_with_issues(tmp_path / "t.parquet").format == "comparisons"
