"""Nothing is computed twice in one `lore train`."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import HashEncoder, small_rows
from lore.data import preferences
from lore.data.formats import load_with_issues
from lore.data.messages import conversation_key
from lore.fitting import personalize
from lore.fitting.basis import RewardBasis
from lore.pairs.table import Pairs
from lore.runs.config import TrainConfig
from lore.runs.training import train
from lore.solvers.gaussian_weights import gaussian_weights
from lore.solvers.simplex_weights import simplex_weights
from lore.solvers.user_problems import UserProblems


def count_problems(monkeypatch: pytest.MonkeyPatch) -> Counter[bytes]:
    """Counts the problems that `fit_weights` solves, by all that they are of."""
    solved: Counter[bytes] = Counter()

    def key(problems: UserProblems, *tensors: torch.Tensor) -> bytes:
        parts = (problems.user, problems.label, problems.share, *tensors)
        return b"".join(part.detach().contiguous().numpy().tobytes() for part in parts)

    def simplex(problems: UserProblems, projected: torch.Tensor, *arguments: Any) -> Any:
        solved[key(problems, projected)] += 1
        return simplex_weights(problems, projected, *arguments)

    def gaussian(problems: UserProblems, projected: torch.Tensor, offset: torch.Tensor, tolerance: float) -> Any:
        solved[key(problems, projected, offset)] += 1
        return gaussian_weights(problems, projected, offset, tolerance)

    monkeypatch.setattr(personalize, "simplex_weights", simplex)
    monkeypatch.setattr(personalize, "gaussian_weights", gaussian)
    return solved


@pytest.mark.parametrize("family", ["simplex", "gaussian"])
def test_each_problem_is_solved_once_and_each_text_hashed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: Any
) -> None:
    solved, hashed = count_problems(monkeypatch), Counter[Any]()

    def counted(*conversation: Any) -> bytes:
        hashed[conversation] += 1
        return conversation_key(*conversation)

    monkeypatch.setattr(preferences, "conversation_key", counted)
    loads = Counter[str]()
    monkeypatch.setattr(RewardBasis, "load", lambda folder: loads.update([str(folder)]))
    loaded = load_with_issues(small_rows(users=24))
    config = TrainConfig(encoder=HashEncoder(), family=family, ranks=(1, 2), unseen=0.25)
    outcome = train(loaded, tmp_path / "run", config)
    assert set(solved.values()) == {1}
    assert len(hashed) == loaded.preferences.rows
    assert set(hashed.values()) == {1}
    assert not loads, "the basis was written and read back"
    assert isinstance(outcome.split.seen_train, Pairs)
