from dataclasses import replace
from pathlib import Path

import pytest
import torch

from builders import HashEncoder
from lore.runs.paper.protocols import load_settings
from runs_paper_builders import SMALL, personalllm_rows, written


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer people, ranks and steps; a quick encoder."""

    def read_small(experiment: str, name: str):
        found = load_settings(experiment, name)
        recipe = None if found.recipe is None else replace(found.recipe, steps=60, few_shot_steps=40)
        return replace(found, ranks=(0, 1, 2), shots=(1, 5), trials=2, sampling=SMALL[experiment], recipe=recipe)

    for module in ("lore.runs.paper.reproduce", "lore.runs.splits", "lore.runs.training"):
        monkeypatch.setattr(f"{module}.load_settings", read_small)
    monkeypatch.setattr("lore.embedding.store.load_encoder", lambda *_: HashEncoder(reference=torch.ones(26)))


@pytest.fixture
def personalllm(tmp_path: Path) -> Path:
    """With a missing score, a prompt twice, one in both splits, one without any score, and a missing response."""
    train, test = personalllm_rows(24, 0), personalllm_rows(10, 100)
    train[2]["response_3_gemma_7b"] = None
    train[4]["response_5"] = None
    train += [train[0], test[3]]
    unscored = dict(personalllm_rows(1, 200)[0])
    train.append(
        {name: None if name.startswith("response_") and name.count("_") > 1 else v for name, v in unscored.items()}
    )
    return written(tmp_path / "data", train=train, test=test)
