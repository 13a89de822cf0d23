"""What earlier versions wrote is read, and what is not understood is refused in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_models
from builders import HashEncoder, random_pairs
from lore.data.formats import load
from lore.embedding import load_encoder
from lore.errors import ConfigError, DataError, LoreError, RunError
from lore.evaluation.report_json import read_report
from lore.fitting.checkpoint import read_fit
from lore.fitting.fit import FitConfig, fit_basis
from lore.pairs.splits import read_split
from lore.runs.artifacts import Run
from lore.runs.config import TrainConfig
from lore.runs.data import RunData
from lore.runs.folder import RunFolder
from lore.runs.rewards import PersonalRewards
from lore.runs.steps import evaluate_step, personalize_step
from lore.serve.app import Application

OLD = Path(__file__).parent / "old"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the old RUN folder."""
    return Path(shutil.copytree(OLD / "run", tmp_path / "run"))


def changed(path: Path, change: Callable[[Any], Any]) -> None:
    """Change the JSON value in a file."""
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def test_an_old_run_is_read_and_used(run: Path) -> None:
    loaded = Run.load(run)
    assert len(loaded.users) == 8
    data = RunData.load(run)
    assert data.config.split_by == "group"
    parts = read_split(run / "split.json", data.preferences.fingerprint(), data.pairs)
    assert {name: len(part) for name, part in parts.parts().items()} == json.loads((run / "split.json").read_text())[
        "pairs"
    ]
    assert set(evaluate_step(run)) == {"seen_train", "seen_test", "unseen_shots", "unseen_test"}
    rewards = PersonalRewards.load(run, HashEncoder())
    assert rewards.rerank("u0", "Say 3", ["kettle", "apple bread cloud dream"]).personalized
    assert rewards.covariance("u0") is not None


def test_an_old_run_that_is_written_to_gets_todays_formats(run: Path) -> None:
    personalize_step(run, RunData.load(run).preferences, encoder=HashEncoder())
    RunFolder(run).mark_finished()
    assert json.loads((run / "run.json").read_text())["format"] == 2
    assert json.loads((run / "users" / "ids.json").read_text())["format"] == 1
    assert len(Run.load(run).users) == 8


def test_an_old_report_has_todays_names() -> None:
    report = read_report(OLD / "run" / "report.json")
    assert "personal" in report["headline"].lower()
    assert report["users"]["helps"] >= 0
    assert "finding" not in report
    assert {result["model"] for result in report["results"]} >= {"pooled", "gaussian", "wrong_user"}


def test_a_report_and_a_run_of_format_1_are_read(run: Path) -> None:
    report = read_report(OLD / "report-1.json")
    assert report["gain"].keys() == {"mean", "low", "high", "users"}
    assert {result["model"] for result in report["results"]} >= {"pooled", "gaussian", "wrong_user"}
    shutil.copy(OLD / "run-1.json", run / "run.json")
    config = RunData.load(run).config
    assert (config.min_pairs, config.splits) == (5, 1)


def test_a_report_and_a_model_of_yesterday_are_read(run: Path) -> None:
    report = read_report(OLD / "report-2.json")
    assert "layers" not in report
    assert report["finding"]["groups"]
    assert json.loads((run / "model" / "config.json").read_text())["format"] == 1
    assert Run.load(run).basis.ranges == {}


def test_an_old_database_keeps_choices_and_erasures(run: Path) -> None:
    application = Application(run, encoder=HashEncoder())
    try:
        store = application.service.store
        assert [event.event_id for event in store.events.of_user("default", "ann")] == ["e1"]
        assert store.events.is_erased("default", "u1")
        assert application.service.user_state("default", "u0").events == 6
    finally:
        application.close()


@pytest.mark.parametrize("name", ["minilm", "reward LLM"])
def test_encoders_of_an_old_store_are_known_by_the_same_fingerprint(name: str, tmp_path: Path) -> None:
    encoder = load_encoder(name if name == "minilm" else str(tiny_models.save(tmp_path / "reward")))
    libraries = ("torch", "transformers")
    stored = json.loads((OLD / "fingerprints.json").read_text())[name]
    today = {key: "any" if key in libraries else value for key, value in encoder.fingerprint.items()}
    assert today == {key: "any" if key in libraries else value for key, value in stored.items()}


def test_old_checkpoints_are_gone_on_from(tmp_path: Path) -> None:
    fit = read_fit(OLD / "checkpoints", "fit-0-simplex-2")
    assert fit.gap is None
    assert fit.optimality < 1e-3
    pairs, config = (
        random_pairs(users=4, rows=12, dim=3, pairs=40),
        FitConfig(rank=2, strength=1e-2, weight_strength=0.01),
    )
    partial = shutil.copy(OLD / "checkpoints" / "partial.safetensors", tmp_path)
    resumed = fit_basis(pairs, config, checkpoint=partial)
    assert resumed.history[0] == pytest.approx(fit.objective, rel=1e-4)
    torch.testing.assert_close(resumed.basis.vectors, fit.basis.vectors, rtol=1e-2, atol=1e-2)


def test_the_arguments_of_an_old_run_that_no_version_had_are_refused() -> None:
    with pytest.raises(RunError, match="unknown argument 'colour'"):
        TrainConfig.from_json({"colour": "red"})
    with pytest.raises(ConfigError, match="unknown choice of the encoder 'colour'"):
        TrainConfig.from_json({"encoding": {"colour": "red"}})
    assert TrainConfig.from_json({"encoding": {"on_long": "drop", "compile": True}}).encoding.truncation == "drop"


def as_object(value: Any) -> dict[str, Any]:
    """The stored value; format 0 of the ids was the list itself."""
    return value if isinstance(value, dict) else {"ids": value}


READERS: dict[str, Callable[[Path], Any]] = {
    "run.json": lambda run: RunFolder(run).state(),
    "split.json": lambda run: read_split(run / "split.json", "data", random_pairs()),
    "report.json": lambda run: read_report(run / "report.json"),
    "users/ids.json": Run.load,
}


@pytest.mark.parametrize("name", READERS)
def test_what_is_not_understood_is_refused_with_the_remedy(run: Path, name: str) -> None:
    read, path = READERS[name], run / name
    written = path.read_text()
    changed(path, lambda value: {"format": 99, **as_object(value)})
    with pytest.raises(LoreError, match=r"has format 99, this version reads up to [123]; install a newer"):
        read(run)
    for change, words in (
        (
            lambda value: {**(value if isinstance(value, dict) else {"ids": value}), "colour": "red"},
            "unknown field 'colour'",
        ),
        (lambda value: {"format": 1}, "has no field"),  # noqa: ARG005
        (lambda value: 3, "must be a JSON object|missing or damaged"),  # noqa: ARG005
    ):
        path.write_text(written)
        changed(path, change)
        with pytest.raises(LoreError, match=words) as error:
            read(run)
        assert "\n" not in str(error.value)


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"basis": torch.zeros(1)}, tmp_path / "fit", {"format": "99", "fit": "", "numbers": "{}"})
    with pytest.raises(DataError, match="newer version"):
        fit_basis(random_pairs(), FitConfig(rank=2), checkpoint=tmp_path / "fit")


def test_a_table_of_format_1_is_read_with_the_columns_that_users_brought_along() -> None:
    table = load(OLD / "table-1.parquet")
    assert table.users == ["ann", "bob"]
    assert table.extra == {"country": ["NL", None], "meta": [{"empty": {}}, {"empty": {}}]}
    rows = [
        {"user_id": user, "prompt": "Why?", "chosen": chosen, "rejected": rejected}
        for user, chosen, rejected in (("ann", "Because.", "No idea."), ("bob", "No idea.", "Because."))
    ]
    assert table.fingerprint() == load(rows).fingerprint()
