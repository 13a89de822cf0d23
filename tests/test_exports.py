from pathlib import Path
from typing import Any

import pytest
import torch

import lore
from builders import HashEncoder, random_pairs, small_rows
from lore.fitting.personalize import fit_weights

SECRET = "apple"  # in every long response of `small_rows`


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    prefs = lore.load(small_rows(users=40, prompts=40))
    store = lore.encode(prefs, encoder=HashEncoder(), store=Path(tmp_path_factory.mktemp("store")))
    pairs = random_pairs(users=400, rows=3_000, pairs=20_000)
    split = lore.split(pairs)
    fit = lore.fit_basis(split.seen_train.sample(500), lore.FitConfig(rank=2, strength=0.01, weight_strength=0.01))
    users = fit_weights(split.unseen_shots, fit.basis)
    return {
        "preferences": prefs,
        "embeddings": store,
        "pairs": pairs,
        "pairs of texts": lore.Pairs.from_embeddings(prefs, store),
        "split": split,
        "fit": fit,
        "basis": fit.basis,
        "users": users,
        "accuracy": lore.accuracy(split.unseen_test, fit.basis, users),
    }


@pytest.mark.parametrize(
    "name",
    ["preferences", "embeddings", "pairs", "pairs of texts", "split", "fit", "basis", "users", "accuracy"],
)
def test_every_public_object_is_shown_in_a_few_lines_without_texts_or_ids(objects: dict[str, Any], name: str) -> None:
    shown = repr(objects[name])
    assert len(shown) < 2_500, shown[:300]
    assert shown.count("\n") < 10
    assert SECRET not in shown
    assert "u17" not in shown


def test_arrays_are_shown_by_shape() -> None:
    shown = repr(lore.Pairs.from_differences([torch.zeros(3, 4)]))
    assert "vectors=float32[3, 4]" in shown
    assert shown.startswith("Pairs(")
