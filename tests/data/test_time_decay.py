from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import lore
from builders import small_rows
from lore.errors import ConfigError, DataError

Write = Callable[[Sequence[Any]], Path]


def dated(stamps: Sequence[Any]) -> list[dict[str, Any]]:
    return [{**row, "timestamp": stamp} for row, stamp in zip(small_rows(users=1), stamps, strict=False)]


def test_a_comparison_counts_half_after_a_half_life_and_the_newest_counts_whole(jsonl: Write) -> None:
    day = 86_400
    with_time_decay = lore.load(jsonl(dated([10 * day, 8 * day, 6 * day, 10 * day]))).with_time_decay(2)
    assert with_time_decay.weight.tolist() == pytest.approx([1, 1 / 2, 1 / 4, 1])


def test_dates_are_read_as_seconds_or_as_iso_8601(jsonl: Write) -> None:
    with_time_decay = lore.load(
        jsonl(dated(["2026-01-03", "2026-01-02T00:00:00Z", "2026-01-01T02:00:00+02:00"]))
    ).with_time_decay(1)
    assert with_time_decay.weight.tolist() == pytest.approx([1, 1 / 2, 1 / 4])


def test_files_of_texts_say_seconds_too(tmp_path: Path) -> None:
    rows = [",".join(row.values()) for row in dated([str(86_400 * day) for day in (3, 2, 1)])]
    (tmp_path / "data.csv").write_text("\n".join(["user_id,prompt,chosen,rejected,timestamp", *rows]))
    assert lore.load(tmp_path / "data.csv").with_time_decay(1).weight.tolist() == pytest.approx([1, 1 / 2, 1 / 4])


def test_each_person_has_a_newest_of_their_own(jsonl: Write) -> None:
    rows = [{**row, "timestamp": 86_400 * int(row["user_id"][1:])} for row in small_rows(users=3)]
    assert set(lore.load(jsonl(rows)).with_time_decay(1).weight.tolist()) == {1.0}


@pytest.mark.parametrize("stamp", ["yesterday", None, True, float("nan")])
def test_a_time_that_cannot_be_read_is_named(jsonl: Write, stamp: Any) -> None:
    with pytest.raises(DataError, match="timestamp"):
        lore.load(jsonl(dated([1, 2, stamp]))).with_time_decay(1)


def test_milliseconds_are_refused_and_what_is_old_is_not_worth_nothing(jsonl: Write) -> None:
    with pytest.raises(DataError, match="divide milliseconds by 1,000"):
        lore.load(jsonl(dated([1_767_225_600_000, 1_767_225_600_000, 1_767_225_600_000]))).with_time_decay(1)
    with_time_decay = lore.load(jsonl(dated([0, 1_700_000_000]))).with_time_decay(0.01)
    assert with_time_decay.weight.tolist() == pytest.approx([1e-6, 1])


def test_without_times_or_with_a_half_life_of_nothing_it_is_refused(jsonl: Write) -> None:
    plain = lore.load(jsonl(small_rows(users=1)))
    with pytest.raises(DataError, match="timestamp"):
        plain.with_time_decay(1)
    for days in (0, -1, float("inf")):
        with pytest.raises(ConfigError, match="half_life"):
            lore.load(jsonl(dated([1, 2, 3]))).with_time_decay(days)
