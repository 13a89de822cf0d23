from pathlib import Path

import pytest

from builders import small_rows
from lore.data.formats import load_with_issues
from lore.errors import RunError
from lore.runs.artifacts import Run
from lore.runs.training import train
from runs_builders import CONFIG


def test_damaged_users_are_refused(tmp_path: Path) -> None:
    folder = train(load_with_issues(small_rows(users=24)), tmp_path / "run", CONFIG).folder
    (folder / "users" / "ids.json").write_text('["only"]')
    with pytest.raises(RunError, match="does not belong"):
        Run.load(folder)
    (folder / "users" / "ids.json").unlink()
    with pytest.raises(RunError, match="missing or damaged"):
        Run.load(folder)
