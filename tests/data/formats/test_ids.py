from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data_formats_builders import ROW
from lore.data.formats import load
from lore.errors import DataError


def users_of_csv(tmp_path: Path, *ids: str) -> list[str]:
    rows = "".join(f"{user},p{number},x,y\n" for number, user in enumerate(ids))
    (tmp_path / "x.csv").write_text("user_id,prompt,chosen,rejected\n" + rows)
    return load(tmp_path / "x.csv").users


def test_whole_floats_of_a_spreadsheet_are_whole_numbers(tmp_path: Path) -> None:
    assert users_of_csv(tmp_path, "7", "7.0", "8.00", "-3.0", "1.5e+3") == ["7", "8", "-3", "1500"]


def test_ids_of_csv_are_texts_as_they_stand(tmp_path: Path) -> None:
    ids = ["007", "1e5", "7.1", "1234567890123456789", "v1.0", "7.0.0"]
    assert users_of_csv(tmp_path, *ids) == ids


def test_long_ids_that_a_spreadsheet_rounded_are_refused_by_the_name_of_their_column(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="`user_id` is a number that was rounded"):
        users_of_csv(tmp_path, "1.2345678901234568e+18")
    with pytest.raises(DataError, match="`user_id` is a number that was rounded"):
        load([ROW | {"user_id": 1.2345678901234568e18}])


@pytest.mark.parametrize("user", [7, 7.0, np.int64(7), np.float64(7), np.str_("7"), "7"])
def test_an_id_is_one_whatever_type_holds_it(user: Any) -> None:
    assert load([ROW | {"user_id": user}]).users == ["7"]


@pytest.mark.parametrize("user", [True, 1.5, float("nan"), float("inf"), [7], {"id": 7}])
def test_what_is_no_id_is_refused(user: Any) -> None:
    with pytest.raises(DataError, match="row 1: "):
        load([ROW | {"user_id": user}])


def test_ids_that_pandas_made_floats_of_are_whole_numbers(tmp_path: Path) -> None:
    frame = pd.DataFrame([ROW | {"user_id": user, "prompt": str(user)} for user in (7, 8, 9)])
    frame["user_id"] = frame["user_id"].astype(float)
    frame.to_parquet(tmp_path / "x.parquet")
    assert load(tmp_path / "x.parquet").users == load(frame).users == ["7", "8", "9"]


@pytest.mark.parametrize("label", [True, 1, 1.0, "1", "true", "True", np.bool_(True), np.int64(1)])
def test_a_liked_completion_is_one_whatever_type_says_so(label: Any) -> None:
    ratings = load([{"user_id": "a", "prompt": "p", "completion": "x", "label": label}]).ratings
    assert ratings is not None
    assert ratings.rating.tolist() == [1.0]
