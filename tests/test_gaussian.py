from dataclasses import replace
from typing import Any

import pytest
import torch

from conftest import random_pairs
from lore.basis import RewardBasis
from lore.evaluate import accuracy
from lore.fit import FitConfig, fit_bases, fit_basis
from lore.gaussian import ITERATIONS, learn_taste, principal_features
from lore.optimize import UserChoices
from lore.pairs import Pairs
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


# --- laws ---------------------------------------------------------------------------------------------------------


def gaussian_basis(pairs: Pairs, **options: Any) -> RewardBasis:
    return fit_basis(pairs, FitConfig(family="gaussian", rank=2, strength=0.01, **options)).basis


def test_the_posterior_is_near_that_on_a_grid() -> None:
    rng = torch.Generator().manual_seed(3)
    vectors = torch.eye(2, dtype=torch.float64)
    basis = RewardBasis(vectors, torch.zeros(2).double(), torch.zeros(2).double(), "gaussian", 2)
    differences = torch.randn(40, 2, generator=rng, dtype=torch.float64)
    chance = torch.sigmoid(differences @ torch.tensor([1.0, -0.5]).double())
    wins = torch.rand(40, generator=rng, dtype=torch.float64) < chance
    differences = torch.where(wins[:, None], differences, -differences)
    people = fit_weights(Pairs.from_differences([differences]), basis)
    axis = torch.linspace(-4, 4, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    logs = -torch.nn.functional.softplus(-(grid @ differences.T)).sum(1) - grid.square().sum(1) / 2
    density = torch.softmax(logs, dim=0)
    mean = density @ grid
    covariance = (grid - mean).T @ (density[:, None] * (grid - mean))
    # The mode and the curvature there, which are Laplace's, differ from mean and covariance by the skew.
    torch.testing.assert_close(people.weights[0], mean, atol=0.1, rtol=0)
    torch.testing.assert_close(people.covariance(torch.tensor([0]))[0], covariance, atol=0.03, rtol=0)


def test_many_answers_give_the_maximum_of_the_likelihood() -> None:
    rng = torch.Generator().manual_seed(4)
    basis = RewardBasis(torch.eye(3).double(), torch.zeros(3).double(), torch.zeros(3).double(), "gaussian", 3)
    differences = torch.randn(20_000, 3, generator=rng, dtype=torch.float64)
    taste = torch.tensor([1.0, -2.0, 0.5]).double()
    wins = torch.rand(20_000, generator=rng, dtype=torch.float64) < torch.sigmoid(differences @ taste)
    people = fit_weights(Pairs.from_differences([torch.where(wins[:, None], differences, -differences)]), basis)
    torch.testing.assert_close(people.weights[0], taste, atol=0.1, rtol=0)
    assert float(people.covariance(torch.tensor([0]))[0].diagonal().max()) < 1e-3


def test_people_who_are_alike_get_one_model_for_all() -> None:
    rng = torch.Generator().manual_seed(5)
    vectors = torch.randn(400, 6, generator=rng, dtype=torch.float64)
    chosen, rejected = torch.randint(400, (2, 1_500), generator=rng)
    margin = 2 * (vectors[chosen] - vectors[rejected])[:, 0]
    wins = torch.rand(1_500, generator=rng, dtype=torch.float64) < torch.sigmoid(margin)
    first, second = torch.where(wins, chosen, rejected), torch.where(wins, rejected, chosen)
    pairs = Pairs.from_rows(vectors, first, second, torch.randint(30, (1_500,), generator=rng))
    pooled, personal = fit_bases(pairs, [FitConfig(rank=1), FitConfig(family="gaussian", rank=2)])
    assert personal.validation is not None
    assert pooled.validation is not None
    assert personal.validation <= pooled.validation + 1e-9
    ours, theirs = (accuracy(pairs, fit.basis, fit.weights).mean for fit in (personal, pooled))
    assert ours - theirs < 0.02


def test_order_and_names_of_people_do_not_matter() -> None:
    pairs = random_pairs(users=20, pairs=800)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    mixed = pairs.of_users(order).select(torch.randperm(len(pairs), generator=torch.Generator().manual_seed(1)))
    one, other = gaussian_basis(pairs), gaussian_basis(mixed)
    covariance, shuffled = (basis.vectors @ basis.vectors.T for basis in (one, other))
    torch.testing.assert_close(covariance, shuffled, atol=1e-6, rtol=1e-4)


def test_splitting_a_weight_in_two_changes_nothing() -> None:
    pairs = random_pairs(users=10, pairs=300)
    halves = Pairs.from_rows(
        pairs.vectors, pairs.chosen.repeat(2), pairs.rejected.repeat(2), pairs.user.repeat(2),
        users=pairs.users, weight=torch.full((600,), 0.5),
    )  # fmt: skip
    one, other = gaussian_basis(pairs), gaussian_basis(halves)
    torch.testing.assert_close(one.vectors @ one.vectors.T, other.vectors @ other.vectors.T, atol=1e-6, rtol=1e-4)


def test_turning_the_embeddings_turns_the_basis_and_no_reward() -> None:
    pairs = random_pairs(users=20, pairs=800)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).Q
    turned = replace(pairs, vectors=pairs.vectors @ turn)
    one, other = gaussian_basis(pairs), gaussian_basis(turned)
    ours = one.rewards(pairs.vectors, fit_weights(pairs, one).weights)
    theirs = other.rewards(turned.vectors, fit_weights(turned, other).weights)
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


def test_single_precision_gives_the_same_within_its_own() -> None:
    pairs = random_pairs(users=20, pairs=800)
    single = replace(pairs, vectors=pairs.vectors.float(), weight=pairs.weight.float(), label=pairs.label.float())
    one, other = gaussian_basis(pairs), gaussian_basis(single)
    torch.testing.assert_close(
        (one.vectors @ one.vectors.T).float(), other.vectors @ other.vectors.T, atol=1e-3, rtol=1e-2
    )


def test_one_person_alone_is_learned_as_among_all() -> None:
    pairs = random_pairs(users=20, pairs=800)
    basis = gaussian_basis(pairs)
    everybody = fit_weights(pairs, basis)
    for user in (0, 7, 19):
        alone = fit_weights(pairs.of_users(torch.tensor([user])), basis)
        torch.testing.assert_close(alone.weights[0], everybody.weights[user], atol=1e-5, rtol=0)
        torch.testing.assert_close(
            alone.covariance(torch.tensor([0]))[0], everybody.covariance(torch.tensor([user]))[0], atol=1e-5, rtol=0
        )
