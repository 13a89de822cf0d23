from pathlib import Path

import pytest

from lore.errors import ConfigError, DataError, MissingExtra
from lore.runs.paper.protocols import load_settings
from lore.runs.paper.reproduce import reproduce
from lore.runs.paper.splits import experiment_split
from runs_paper_builders import personalllm_rows, tldr_rows


def test_the_published_settings_are_in_the_files() -> None:
    found = {name: load_settings(name, "original") for name in ("personalllm", "prism", "tldr")}
    assert found["personalllm"].ranks == (0, 1, 2, 3, 4, 5)
    assert found["prism"].ranks == (0, 1, 5, 10, 15, 20, 25, 50)
    assert (found["prism"].recipe.steps, found["prism"].recipe.strength) == (20_000, 1e4)
    assert found["tldr"].shots == tuple(range(5, 51, 5))
    assert found["tldr"].trials == 20
    assert load_settings("tldr", "lore").recipe is None
    with pytest.raises(ConfigError, match="simulates its users"):
        experiment_split("personalllm", found["personalllm"], None, None, 0)


def test_without_data_the_published_set_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def offline(*arguments: object, **_: object) -> None:
        asked.append(arguments)
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    monkeypatch.setattr(hub, "hf_hub_download", offline)
    for name in ("personalllm", "prism", "tldr"):
        with pytest.raises(DataError, match=r"cannot be downloaded \(offline\); give the data set as `data`"):
            reproduce(name, tmp_path / name)
    assert asked == [
        ("namkoong-lab/PersonalLLM",),
        ("HannahRoseKirk/prism-alignment", "conversations.jsonl"),
        ("openai/summarize_from_feedback", "comparisons"),
    ]
    given = {"train": datasets.Dataset.from_list(personalllm_rows(24, 0)), "test": personalllm_rows(10, 100)}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: given)
    assert reproduce("personalllm", tmp_path / "run").split.seen_train.users[0] == "seen-0000"
    rows = tldr_rows()
    halves = {
        "train": datasets.Dataset.from_list([row for row in rows if row["split"] == "train"]),
        "validation": datasets.Dataset.from_list([row for row in rows if row["split"] != "train"]),
    }
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: halves)
    assert len(reproduce("tldr", tmp_path / "tldr").split.seen_test) == 40
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtra, match="datasets"):
        reproduce("personalllm", tmp_path / "none")
