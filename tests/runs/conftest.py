from pathlib import Path

import pytest

from builders import HashEncoder, small_rows
from lore.data.formats import load_with_issues
from lore.runs.config import TrainConfig
from lore.runs.rewards import PersonalRewards
from lore.runs.training import train


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which even users like long responses and odd ones short ones."""
    folder = tmp_path_factory.mktemp("use") / "run"
    config = TrainConfig(encoder=HashEncoder(), ranks=(1, 2), unseen=0.25)
    return train(load_with_issues(small_rows(users=24)), folder, config).folder


@pytest.fixture
def rewards(run_folder: Path) -> PersonalRewards:
    return PersonalRewards.load(run_folder, HashEncoder())
