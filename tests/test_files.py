from pathlib import Path

import pytest

from lore.errors import DataError
from lore.files import read_json, replacing, write_json, write_text


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "first")

    def interrupted() -> None:
        with replacing(path) as beside:
            beside.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "first"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_json_is_refused_when_it_is_missing_broken_or_not_a_number(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        read_json(tmp_path / "x.json")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "y.json", float("nan"))
    write_json(tmp_path / "y.json", {"a": [1]})
    assert read_json(tmp_path / "y.json") == {"a": [1]}
