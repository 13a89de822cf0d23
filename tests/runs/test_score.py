from pathlib import Path

import pytest

from builders import HashEncoder
from lore.errors import DataError
from lore.runs.rewards import PersonalRewards
from lore.runs.score import score_file


def test_a_file_is_scored_row_by_row(run_folder: Path, rewards: PersonalRewards, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"user_id": "u0", "prompt": "p", "response": "apple"}\n{"user_id": "x", "prompt": "p", "response": "apple"}\n'
    )
    rows = score_file(run_folder, path, encoder=HashEncoder())
    assert [row["personalized"] for row in rows] == [True, False]
    assert rows[0]["reward"] == pytest.approx(rewards.rerank("u0", "p", ["apple"]).rewards[0], abs=1e-5)
    path.write_text('{"user_id": "u0", "prompt": "p"}\n')
    with pytest.raises(DataError, match="line 1: missing field `response`"):
        score_file(run_folder, path, encoder=HashEncoder())
    path.write_text("")
    with pytest.raises(DataError, match="empty"):
        score_file(run_folder, path, encoder=HashEncoder())
