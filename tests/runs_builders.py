import json
from pathlib import Path

from builders import HashEncoder
from lore.runs.config import TrainConfig

CONFIG = TrainConfig(encoder=HashEncoder(), ranks=(1, 2), unseen=0.25)


def rows_of(path: Path):
    return json.loads((path / "report.json").read_text())
