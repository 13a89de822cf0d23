import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import random_pairs
from lore.errors import DataError
from lore.evaluation.metrics import accuracy, margins
from lore.fitting.basis import RewardBasis
from lore.fitting.fit import FitConfig, fit_bases, fit_basis
from lore.fitting.personalize import fit_weights
from lore.pairs.table import Pairs


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
    mixed = pairs.for_users(order).select(torch.randperm(len(pairs), generator=torch.Generator().manual_seed(1)))
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
        alone = fit_weights(pairs.for_users(torch.tensor([user])), basis)
        torch.testing.assert_close(alone.weights[0], everybody.weights[user], atol=1e-5, rtol=0)
        torch.testing.assert_close(
            alone.covariance(torch.tensor([0]))[0], everybody.covariance(torch.tensor([user]))[0], atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("family", ["simplex", "gaussian"])
def test_rewards_are_in_units_of_the_temperature(family: Any) -> None:
    pairs = random_pairs(users=20, pairs=800)
    one, ten = (fit_basis(pairs, FitConfig(family=family, rank=2, temperature=t, tolerance=1e-6)) for t in (1.0, 10.0))
    assert ten.validation == pytest.approx(one.validation, rel=1e-3)
    torch.testing.assert_close(ten.basis.center, 10 * one.basis.center, rtol=1e-2, atol=1e-3)
    people = fit_weights(pairs, one.basis), fit_weights(pairs, ten.basis)
    first, second = (margins(pairs, found.basis, found) / found.basis.temperature for found in people)
    torch.testing.assert_close(first, second, rtol=2e-2, atol=2e-2)


def test_comparisons_that_count_nothing_change_nothing() -> None:
    pairs = random_pairs(users=4, pairs=80)
    basis = gaussian_basis(random_pairs(users=20, pairs=800))
    more = Pairs.from_rows(
        pairs.vectors,
        torch.cat([pairs.chosen, pairs.rejected]),
        torch.cat([pairs.rejected, pairs.chosen]),
        pairs.user.repeat(2),
        weight=torch.cat([pairs.weight, torch.zeros_like(pairs.weight)]),
    )
    found, same = fit_weights(pairs, basis), fit_weights(more, basis)
    torch.testing.assert_close(found.weights, same.weights)
    every = torch.arange(4)
    torch.testing.assert_close(found.covariance(every), same.covariance(every))


@pytest.mark.parametrize("family", ["simplex", "gaussian"])
def test_embeddings_that_tell_nothing_apart_are_refused(family: Any) -> None:
    pairs = replace(random_pairs(), vectors=torch.ones(60, 6, dtype=torch.float64))
    with pytest.raises(DataError, match="same embedding in every pair"):
        fit_basis(pairs, FitConfig(family=family, rank=2))
    with pytest.raises(DataError, match="not finite"):
        fit_basis(replace(pairs, vectors=pairs.vectors * torch.nan), FitConfig(family=family, rank=2))


def test_a_simplex_rank_is_chosen_as_well() -> None:
    pairs = random_pairs(users=30, pairs=1_500, polar=True)
    fit = fit_basis(pairs, FitConfig(rank="auto"))
    assert fit.basis.rank >= 2
    assert fit.validation is not None
    pooled = fit_basis(pairs, FitConfig(rank=1))
    assert pooled.validation is not None
    assert fit.validation < pooled.validation


def test_a_person_can_be_kept_in_as_many_numbers_as_there_are_tastes() -> None:
    pairs = random_pairs(users=20, pairs=800)
    basis = gaussian_basis(pairs)
    short = fit_weights(pairs, basis, rank_only=True)
    assert short.weights.shape == (20, 2)
    assert short.basis.columns == basis.rank == 2
    torch.testing.assert_close(short.basis.vectors, basis.vectors[:, :2])
    whole, kept = (accuracy(pairs, people.basis, people).mean for people in (fit_weights(pairs, basis), short))
    assert abs(whole - kept) < 0.05
    torch.testing.assert_close(
        basis.truncated(basis.rank).truncated(basis.rank).vectors, basis.truncated(basis.rank).vectors
    )


def test_the_posterior_is_near_the_stored_one_of_the_exact_distribution() -> None:
    """`tests/golden/posterior.py` integrates the exact posterior on a grid."""
    for case in json.loads((Path(__file__).parents[1] / "golden" / "posterior.json").read_text()):
        differences = torch.tensor(case["differences"], dtype=torch.float64)
        basis = RewardBasis(torch.eye(2).double(), torch.zeros(2).double(), torch.zeros(2).double(), "gaussian", 2)
        people = fit_weights(Pairs.from_differences([differences]), basis)
        mean, covariance = (torch.tensor(case[name], dtype=torch.float64) for name in ("mean", "covariance"))
        torch.testing.assert_close(people.weights[0], mean, atol=case["atol"], rtol=0)
        torch.testing.assert_close(people.covariance(torch.tensor([0]))[0], covariance, atol=case["atol"], rtol=0)
