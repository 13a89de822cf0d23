"""Every Python block of the original's documentation pages runs as printed; the pages lie beside the data sets.

Only the places of the blocks are here: page, first and last line, and the indentation where the page lost it.
"""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lore import compat

DIM, PROMPTS = 6, 1_000
DATA, EXPERIMENT, TRAINING = "000", "001", "003"


@pytest.fixture
def page(request: pytest.FixtureRequest) -> list[str]:
    """The lines of a page."""
    folder = Path(os.environ.get("LORE_DATA", "")).parent / "seeds"
    found = sorted(folder.glob(f"{request.param}_*.txt"))
    if "LORE_DATA" not in os.environ or not found:
        pytest.skip("the documentation pages of the original are not beside the folder that LORE_DATA names")
    return found[0].read_text(encoding="utf-8").splitlines()


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty one, with the checkout's `utils.py` to import."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    monkeypatch.chdir(tmp_path)


def block(page: list[str], first: int, last: int, indents: str = "") -> str:
    """Lines `first` to `last` (from 1); `indents` has one digit a line, steps of four spaces."""
    lines = page[first - 1 : last]
    return "\n".join("    " * int(steps) + line for line, steps in zip(lines, indents or "0" * len(lines), strict=True))


def executed(code: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What the names stand for after a block."""
    names = dict(values)
    exec(compile(code, "page", "exec"), names)
    return names


def scored(prompts: int = PROMPTS) -> dict[str, Any]:
    """Scores of eight responses by ten models, and their embeddings as nested lists."""
    rng = np.random.default_rng(0)
    vectors = torch.from_numpy(rng.normal(size=(prompts, 8, DIM))).float()
    return {
        "reward_tensor": rng.normal(size=(prompts, 8, 10)),
        "features": [list(row) for row in vectors],
        "W": rng.dirichlet(np.full(10, 0.1), size=5),
        "np": np,
        "torch": torch,
    }


@pytest.mark.parametrize("page", [DATA], indirect=True)
def test_the_page_of_data_functions_runs(page) -> None:
    names = executed(block(page, 14, 20), scored())
    assert names["feature_diff"].shape == (1, DIM)
    names = executed(block(page, 48, 54), names)
    assert names["all_feature_diff"].shape == (5, PROMPTS, DIM)
    names = executed(block(page, 80, 94), names)
    assert len(names["train_features"]) == 1_000
    assert {own.shape for own in names["train_features"]} == {torch.Size([5, DIM])}
    names = executed(block(page, 100, 104), names)
    np.testing.assert_allclose(names["W"].sum(axis=1), np.ones(1_000))
    names = executed(block(page, 126, 132), names)
    assert all(own.dtype == torch.float32 for own in names["train_features"])
    turn = {"chosen": [torch.ones(DIM)] * 2, "rejected": [torch.zeros(DIM)] * 2}
    names["embeddings"] = {f"u{user}": {f"d{dialog}": turn for dialog in range(6)} for user in range(3)}
    names = executed(block(page, 162, 165), names)
    assert [own.shape for own in names["train_features"]] == [torch.Size([12, DIM])] * 3
    names = executed(block(page, 183, 186), names)
    assert [own.shape for own in names["few_shot_features"]] == [torch.Size([10, DIM])] * 3


@pytest.mark.parametrize("page", [EXPERIMENT], indirect=True)
def test_the_page_of_the_experiment_builds_its_tensors(page) -> None:
    pandas = pytest.importorskip("pandas")
    names = executed(block(page, 13, 24), {"np": np, "num_prompts": 3})
    rows = [
        {f"response_{at}_{model}": float(number * at) for at in range(1, 9) for model in names["model_names"][:9]}
        for number in range(3)
    ]
    names = executed(block(page, 28, 36, "000112331"), names | {"data": pandas.DataFrame(rows)})
    tensor = names["reward_tensor"]
    assert tensor.shape == (3, 8, 10)
    assert tensor[2, 7, 0] == 16.0
    assert tensor[0, 0, 9] is None  # a model that the data lack
    features = torch.eye(24).view(3, 8, 24)
    complete = compat.simulate_population(tensor[:, :, :9], features, np.full((1, 9), 1 / 9))
    assert torch.equal(complete[0, 2], features[2, 7] - features[2, 0])


@pytest.mark.parametrize("page", [EXPERIMENT], indirect=True)
def test_the_page_of_the_experiment_embeds_saves_and_loads(page) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    names = {"torch": torch, "rm": transformers.LlamaModel(config).eval(), "embeddings": []}
    names = executed(block(page, 40, 42, "011"), names | {"conv_tokenized": torch.tensor([[1, 2, 3]])})
    stacked = torch.stack(names["embeddings"])
    names = executed(block(page, 44, 45) + "\n" + block(page, 47, 48), names | {"embeddings": stacked})
    assert torch.equal(names["embeddings"], stacked)


@pytest.mark.parametrize("page", [EXPERIMENT], indirect=True)
def test_what_the_page_defines_is_what_ours_does(page) -> None:
    data = scored(prompts=30)
    names = executed(block(page, 55, 56, "01"), {"np": np})
    for function in (names["generate_popupulation"], compat.generate_popupulation):
        np.random.seed(1)
        data.setdefault("drawn", []).append(function([0.1] * 10, 3))
    np.testing.assert_array_equal(*data["drawn"])
    names = executed(block(page, 57, 59), names | {"model_names": range(10), "N": 7})
    assert names["W"].shape == (7, 10)
    names = executed(block(page, 66, 79, "01112222321011"), data)
    printed = names["simulate_population"](data["reward_tensor"], data["features"], data["W"])
    ours = compat.simulate_population(data["reward_tensor"], data["features"], data["W"])
    assert torch.equal(printed, ours.dense())
    names = executed(block(page, 85, 93, "011112221"), names | {"device": "cpu"})
    samples = []
    for function, dense in ((names["create_sparse_tensor"], printed), (compat.create_sparse_tensor, ours)):
        np.random.seed(2)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="To copy construct from a tensor")
            samples.append(torch.stack(function(dense, 0.2)))
    assert torch.equal(*samples)


@pytest.mark.parametrize("page", [EXPERIMENT], indirect=True)
def test_the_page_of_the_experiment_draws_its_parts(page) -> None:
    names = executed("from utils import *", scored())
    test = scored(prompts=4)
    names |= {"reward_tensor_test": test["reward_tensor"], "test_features": test["features"]}
    names |= {"alpha": 0.1 * np.ones(10), "W": compat.generate_popupulation(0.1 * np.ones(10), 1_000)}
    names = executed(block(page, 95, 109), names)
    shapes = {"train_features": 5, "test_features_sparse": 4, "train_features_unseen": 1}
    for name, rows in (shapes | {"test_features_sparse_unseen": 4}).items():
        assert {own.shape for own in names[name]} == {torch.Size([rows, DIM])}
    names = executed(block(page, 114, 115), names)
    assert (names["K_list"], names["alpha_list"]) == ([0, 1, 2, 3, 4, 5], [0])


@pytest.mark.parametrize("page", [TRAINING], indirect=True)
def test_the_page_of_training_runs(page) -> None:
    rng = torch.Generator().manual_seed(0)
    own = [torch.randn(2, 4_096, generator=rng) for _ in range(2)]
    names = {"V_final": torch.randn(4_096, 1, generator=rng), "N": 2, "train_features": own}
    names = executed(block(page, 14, 25), names)
    assert (names["W"].shape, names["V"].shape) == ((2, 5), (4_096, 5))
    names["V_joint"], names["train_features_unseen"] = names["V"], own
    names = executed(block(page, 147, 155), names)
    assert [tuple(w.shape) for w in names["W_few_shot"]] == [(5,), (5,)]
    names = executed(block(page, 75, 86), names)
    assert names["W_kept"].shape[1] == names["V_kept"].shape[1] <= 25
