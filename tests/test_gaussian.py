import pytest
import torch

from conftest import random_pairs
from lore.fit import FitConfig, fit_bases, fit_basis
from lore.gaussian import ITERATIONS, learn_taste, principal_features
from lore.optimize import UserChoices
from lore.personalize import fit_weights


@pytest.mark.parametrize(("rows", "dim"), [(30, 6), (6, 30)])
def test_features_are_principal_components_of_unit_mean_square(rows: int, dim: int) -> None:
    vectors = torch.randn(rows, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features = principal_features(vectors, most=4).map
    assert features.shape == (dim, 4)
    found = (vectors - vectors.mean(0)) @ features
    assert float(found.square().mean()) == pytest.approx(1)
    spectrum = torch.linalg.svdvals(vectors - vectors.mean(0))[:4]
    torch.testing.assert_close(found.norm(dim=0) / found.norm(dim=0)[0], spectrum / spectrum[0])


def test_covariance_is_low_rank_plus_a_multiple_of_the_identity() -> None:
    rng = torch.Generator().manual_seed(0)
    projected = torch.randn(400, 6, generator=rng, dtype=torch.float64)
    user = torch.arange(20).repeat_interleave(20)
    choices = UserChoices(user, torch.ones(400), torch.ones(400) / 4, 20, 1.0)
    root = learn_taste(choices, projected, torch.zeros(400, dtype=torch.float64), rank=2)[-1].root
    variances = root.square().sum(0)
    torch.testing.assert_close(variances[2:], variances[2:].mean().expand(4))
    assert (variances[:2] >= variances[2]).all()
    torch.testing.assert_close(root.T @ root, torch.diag(variances), atol=1e-9, rtol=0)
    everything = learn_taste(choices, projected, torch.zeros(400, dtype=torch.float64), rank=6)[-1].root
    assert everything.isfinite().all()


def test_a_planted_taste_is_found() -> None:
    rng = torch.Generator().manual_seed(1)
    taste = torch.nn.functional.normalize(torch.randn(5, generator=rng, dtype=torch.float64), dim=0)
    projected = torch.randn(60 * 40, 5, generator=rng, dtype=torch.float64)
    user = torch.arange(60).repeat_interleave(40)
    liking = 4 * torch.randn(60, generator=rng, dtype=torch.float64)
    wins = torch.rand(2400, generator=rng, dtype=torch.float64) < torch.sigmoid((projected @ taste) * liking[user])
    projected = torch.where(wins[:, None], projected, -projected)
    choices = UserChoices(user, torch.ones(2400), torch.ones(2400), 60, 1.0)
    root = learn_taste(choices, projected, torch.zeros(2400, dtype=torch.float64), rank=1)[-1].root
    first = torch.nn.functional.normalize(root[:, 0], dim=0)
    assert abs(float(first @ taste)) > 0.97
    assert ITERATIONS == 8


def test_gaussian_weights_of_seen_users_are_what_fit_weights_gives() -> None:
    pairs = random_pairs()
    fit = fit_basis(pairs, FitConfig(family="gaussian", rank=2, strength=0.01))
    torch.testing.assert_close(fit_weights(pairs, fit.basis).weights, fit.weights, atol=1e-4, rtol=0)


def test_nobody_is_changed_by_having_no_pairs() -> None:
    pairs = random_pairs()
    fit = fit_basis(pairs, FitConfig(family="gaussian", rank=2, strength=0.01))
    people = fit_weights(pairs.select(pairs.user != 0), fit.basis)
    assert float(people.weights[0].abs().max()) == 0
    torch.testing.assert_close(people.covariance(torch.tensor([0]))[0], torch.eye(fit.basis.columns).double())


def test_an_automatic_gaussian_fit_is_validated_by_itself_and_not_by_its_center() -> None:
    pairs = random_pairs(users=20, pairs=1_200)
    pooled, personal = fit_bases(pairs, [FitConfig(rank=1), FitConfig(family="gaussian", rank=2)])
    assert personal.validation is not None
    assert pooled.validation is not None
    assert personal.validation < pooled.validation - 0.005  # the planted tastes differ
