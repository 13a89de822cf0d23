"""`layer="auto"`: choices that a layer was planted in are predicted by that layer."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import tiny_models
from lore.data.formats import LoadResult, load_with_issues
from lore.embedding import EncoderOptions, load_encoder
from lore.errors import ConfigError
from lore.runs.artifacts import Run
from lore.runs.config import TrainConfig
from lore.runs.data import LAYER_FORMAT, RunData, with_chosen_layer
from lore.runs.folder import RunFolder
from lore.runs.layers import choose_layer
from lore.runs.rewards import PersonalRewards
from lore.runs.splits import new_split
from lore.runs.steps import fit_step
from lore.runs.training import train

LAYERS = 6
WORDS = ["the", "that", "what", "this", "then", "there", "these", "those", "than", "them"]
AUTO = EncoderOptions(layer="auto")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save(tmp_path_factory.mktemp("causal"), "causal", num_hidden_layers=LAYERS)


def planted(model: Path, options: EncoderOptions, prompts: int = 60) -> LoadResult:
    """Comparisons of twelve users who all like one direction of the model's states after a layer."""
    rng = np.random.default_rng(0)
    texts = [[" ".join(rng.choice(WORDS, size=rng.integers(3, 9))) for _ in range(4)] for _ in range(prompts)]
    prompt = [f"{number} {' '.join(rng.choice(WORDS, size=5))}" for number in range(prompts)]
    conversations = [
        ((("user", asked),), (("assistant", text),)) for asked, four in zip(prompt, texts, strict=True) for text in four
    ]
    vectors = load_encoder(str(model), options).encode(conversations).vectors
    scores = (vectors - vectors.mean(0)) @ torch.randn(vectors.shape[1], generator=torch.Generator().manual_seed(1))
    rows: list[dict[str, Any]] = []
    for user in range(12):
        for number in range(prompts):
            first, second = rng.choice(4, size=2, replace=False)
            if scores[4 * number + first] < scores[4 * number + second]:
                first, second = second, first
            rows.append(
                {
                    "user_id": f"u{user}",
                    "prompt": prompt[number],
                    "chosen": texts[number][first],
                    "rejected": texts[number][second],
                }
            )
    return load_with_issues(rows)


@pytest.mark.parametrize(("layer", "pooling"), [(2, "response"), (5, "last"), (None, "response")])
def test_the_planted_layer_is_chosen(model: Path, layer: int | None, pooling: Any) -> None:
    loaded = planted(model, EncoderOptions(layer=layer, pooling=pooling))
    config = TrainConfig(str(model), "gaussian", ranks=(1,), encoding=AUTO)
    choice = choose_layer(loaded.preferences, config, lambda *_: None)
    assert {score.layer for score in choice.scores} == {2, 3, 4, 5, None}
    assert (choice.best.layer, choice.best.pooling) == (layer, pooling)


def test_nothing_of_the_test_part_takes_part(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preferences = planted(model, EncoderOptions()).preferences
    config = TrainConfig(str(model), "gaussian", ranks=(1,), encoding=AUTO)
    monkeypatch.setattr("lore.runs.layers._SAMPLE", 40)
    from lore.runs.data import all_pairs
    from lore.runs.layers import _sample
    from lore.runs.splits import Unembedded

    pairs, rows = _sample(preferences, config)
    assert 0 < len(rows) <= 40
    assert set(torch.cat([pairs.chosen, pairs.rejected]).tolist()) <= set(rows.tolist())  # type: ignore[list-item]
    parts = new_split(all_pairs(preferences, Unembedded.of(preferences), config), config, 0)
    for part in (parts.seen_test, parts.unseen_test):
        assert part.rejected is not None
        tested = set(part.group[torch.cat([part.chosen, part.rejected])].tolist())
        assert not tested & set(part.group[rows].tolist())


def test_a_run_chooses_once_and_remembers(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = planted(model, EncoderOptions(layer=2, pooling="response"))
    config = TrainConfig(f"minilm+{model}", "gaussian", ranks=(1, 2), encoding=AUTO)
    with monkeypatch.context() as patch:
        patch.setattr("lore.runs.training.sweep_of_run", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(loaded, tmp_path / "run", config)
    with monkeypatch.context() as patch:
        patch.setattr("lore.runs.layers.choose_layer", _interrupted)  # is not called again
        run = train(loaded, tmp_path / "run", config).folder
    assert json.loads((run / "run.json").read_text())["config"]["encoding"] == {"layer": "auto"}
    finished = Run.load(run)
    assert (finished.options.layer, finished.options.pooling) == (2, "response")
    assert RunData.load(run).config.encoding == finished.options
    assert len(PersonalRewards.load(run).rerank("u0", "the", ["that", "what this"]).order) == 2
    report = json.loads((run / "report.json").read_text())
    best = min(report["layers"], key=lambda one: one["log_loss"])
    assert (best["layer"], best["pooling"], len(report["layers"])) == (2, "response", 10)
    assert "Layers of the language model that were tried" in (run / "report.html").read_text()
    fit_step(run, force=True)
    assert Run.load(run).options == finished.options


def test_a_chosen_end_is_the_last_layer_of_any_model(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    LAYER_FORMAT.write(folder.layers, {"layer": None, "pooling": "last", "conversations": 1, "scores": []})
    assert with_chosen_layer(TrainConfig("smollm2", encoding=AUTO), folder).encoding.layer == "last"


def _interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_reward_model_keeps_its_head(tmp_path: Path) -> None:
    reward_model = tiny_models.save(tmp_path / "reward")
    loaded = planted(reward_model, EncoderOptions())
    config = TrainConfig(str(reward_model), "gaussian", ranks=(0, 1, 2), encoding=AUTO)
    run = train(loaded, tmp_path / "run", config).folder
    report = json.loads((run / "report.json").read_text())
    assert "reference" in {result["model"] for result in report["results"]}
    assert len(report["layers"]) == 4


def test_a_file_of_vectors_may_stand_beside(model: Path, tmp_path: Path) -> None:
    loaded = planted(model, EncoderOptions(layer=2, pooling="response"), prompts=20)
    save_file({"embeddings": torch.randn(loaded.preferences.rows, 3)}, tmp_path / "vectors.safetensors")
    config = TrainConfig(f"{tmp_path / 'vectors.safetensors'}+{model}", "gaussian", encoding=AUTO)
    assert len(choose_layer(loaded.preferences, config, lambda *_: None).scores) == 10


@pytest.mark.parametrize("encoder", ["minilm", "{model}+{model}"])
def test_a_layer_is_chosen_for_one_language_model(model: Path, encoder: str) -> None:
    loaded = planted(model, EncoderOptions(), prompts=12)
    config = TrainConfig(encoder.format(model=model), "gaussian", encoding=AUTO)
    with pytest.raises(ConfigError, match="one language model"):
        choose_layer(loaded.preferences, config, lambda *_: None)
    with pytest.raises(ConfigError, match="whole number of 1 or more, 'last' or 'auto'"):
        replace(AUTO, layer=0)
