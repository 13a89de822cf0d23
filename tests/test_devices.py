"""Everything follows the device of the embeddings; nothing is made on a default one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

import lore
from builders import random_pairs
from lore.fitting.personalize import fit_weights
from lore.pairs.table import Pairs

MADE = {torch.zeros, torch.ones, torch.full, torch.eye, torch.arange, torch.linspace, torch.empty, torch.tensor}
GIVEN = lore.FitConfig(rank=2, strength=1e-3, weight_strength=0.01)
FITS = {
    "given": GIVEN,
    "cosine": replace(GIVEN, penalty="cosine"),
    "automatic": lore.FitConfig(rank=2),
    "gaussian": lore.FitConfig(rank=2, family="gaussian"),
    "pooled": lore.FitConfig(rank=1),
    "reference": lore.FitConfig(rank=0),
}


PRODUCTS = {torch.matmul, torch.mm, torch.mv, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.mm}


class NoDefaultDevice(TorchFunctionMode):
    """As on a GPU: tensors made where no device is named cannot be mixed, and integers have no matrix product.

    What is made without a device is on "meta".
    """

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function in MADE and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        if function in PRODUCTS:
            assert args[0].is_floating_point()
        return function(*args, **kwargs)


@pytest.fixture(params=["cpu", "cuda", "mps"])
def device(request: pytest.FixtureRequest) -> str:
    """Each kind of device that torch knows of; skipped where the machine has none."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    if request.param == "mps" and not torch.backends.mps.is_available():
        pytest.skip("there is no Apple GPU")
    return request.param


def on(device: str) -> Pairs:
    """Planted choices in float32, all tensors on a device."""
    pairs = random_pairs()
    tensors = {name: value for name, value in vars(pairs).items() if isinstance(value, torch.Tensor)}
    moved = {name: value.to(device) for name, value in tensors.items()}
    return replace(
        pairs, **{name: value.float() if value.is_floating_point() else value for name, value in moved.items()}
    )


@pytest.mark.filterwarnings("ignore::lore.errors.ConvergenceWarning")
@pytest.mark.parametrize("name", FITS)
def test_fits_and_weights_are_on_the_device_of_the_embeddings(device: str, name: str) -> None:
    pairs = on(device)
    reference = pairs.vectors.mean(0)
    with NoDefaultDevice():
        fit = lore.fit_basis(pairs, FITS[name], reference)
        users = fit_weights(pairs, fit.basis)
        right = lore.accuracy(pairs, fit.basis, users)
        rewards = fit.basis.rewards(pairs.vectors, users.weights)
    assert {fit.basis.vectors.device.type, fit.weights.device.type, users.weights.device.type} == {device}
    assert rewards.device.type == device
    expected = lore.fit_basis(on("cpu"), FITS[name], reference.cpu())
    assert fit.objective == pytest.approx(expected.objective, rel=1e-3)
    assert right.mean == pytest.approx(lore.accuracy(on("cpu"), expected.basis, expected.weights).mean, abs=0.03)


@pytest.mark.parametrize("family", ["simplex", "gaussian"])
def test_a_sweep_and_a_question_follow_the_device(device: str, family: str) -> None:
    pairs = on(device)
    with NoDefaultDevice():
        parts = lore.split(pairs)
        results = lore.sweep(parts, (1, 2), config=lore.FitConfig(family=family, strength=1e-2, weight_strength=0.01))
        basis = lore.fit_basis(pairs, replace(GIVEN, family=family)).basis
        users = fit_weights(pairs, basis)
        candidates = torch.stack([pairs.chosen[:9], pairs.rejected[:9]], dim=1)
        question = lore.next_comparison(users, basis, pairs.vectors, candidates)
    assert {result.model for result in results} >= {"pooled", family, "wrong_user", "shuffled"}
    assert question.information >= 0
