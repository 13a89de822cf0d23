import json
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conftest import random_pairs
from lore.basis import RewardBasis
from lore.errors import DataError
from lore.evaluate import accuracy, margins
from lore.fit import FitConfig, fit_bases, fit_basis
from lore.gaussian import Taste, learn_taste, most_likely_taste, principal_features
from lore.optimize import UserChoices
from lore.pairs import Pairs
from lore.personalize import fit_weights
from lore.tastes import Course, TasteSearch, climb


@pytest.mark.parametrize(("rows", "dim"), [(30, 6), (6, 30)])
def test_features_are_principal_components_of_unit_mean_square(rows: int, dim: int) -> None:
    vectors = torch.randn(rows, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features = principal_features(vectors, most=4).map
    assert features.shape == (dim, 4)
    found = (vectors - vectors.mean(0)) @ features
    assert float(found.square().mean()) == pytest.approx(1)
    spectrum = torch.linalg.svdvals(vectors - vectors.mean(0))[:4]
    torch.testing.assert_close(found.norm(dim=0) / found.norm(dim=0)[0], spectrum / spectrum[0])


def learned(choices: UserChoices, projected: torch.Tensor, rank: int) -> Taste:
    """Tastes after eight iterations around a center of zero."""
    path = learn_taste(choices, projected, torch.zeros(len(projected), dtype=torch.float64), rank, variance=0.01)
    return next(islice(path, 7, None))


def test_covariance_is_low_rank_plus_a_multiple_of_the_identity() -> None:
    rng = torch.Generator().manual_seed(0)
    projected = torch.randn(400, 6, generator=rng, dtype=torch.float64)
    user = torch.arange(20).repeat_interleave(20)
    choices = UserChoices(user, torch.ones(400), torch.ones(400) / 4, 20, 1.0)
    root = learned(choices, projected, rank=2).root
    variances = root.square().sum(0)
    torch.testing.assert_close(variances[2:], variances[2:].mean().expand(4))
    assert (variances[:2] >= variances[2]).all()
    torch.testing.assert_close(root.T @ root, torch.diag(variances), atol=1e-9, rtol=0)
    everything = learned(choices, projected, rank=6).root
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
    root = learned(choices, projected, rank=1).root
    first = torch.nn.functional.normalize(root[:, 0], dim=0)
    assert abs(float(first @ taste)) > 0.97


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


# --- expectation-maximization never lowers its bound --------------------------------------------------------------


def jaakkola_jordan(projected: torch.Tensor, root: torch.Tensor, user: torch.Tensor, users: int) -> Any:
    """The bound of Jaakkola and Jordan (2000) at its best for a covariance: second moment, likelihood, posteriors."""
    precision = torch.linalg.inv(root @ root.T)
    xi = torch.ones(len(projected), dtype=torch.float64)
    for _ in range(300):
        weight = torch.tanh(xi / 2) / (2 * xi)
        means, covariances = [], []
        for person in range(users):
            own = projected[user == person]
            inverse = torch.linalg.inv(precision + own.T @ (weight[user == person][:, None] * own))
            covariances.append(inverse)
            means.append(inverse @ own.sum(0) / 2)
        mean, covariance = torch.stack(means), torch.stack(covariances)
        second = covariance + mean[:, :, None] * mean[:, None, :]
        xi = torch.einsum("pf,pfg,pg->p", projected, second[user], projected).sqrt()
    margin = (projected * mean[user]).sum(1)
    likelihood = (torch.nn.functional.logsigmoid(xi) + (margin - xi) / 2).sum()
    return second.mean(0), likelihood, mean, covariance


def bound(likelihood: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor, root: torch.Tensor) -> float:
    """Expected log-likelihood under the bound, less the divergence of the posteriors from the prior."""
    sigma = root @ root.T
    precision = torch.linalg.inv(sigma)
    second = covariance + mean[:, :, None] * mean[:, None, :]
    divergence = (second * precision).sum((1, 2)) - len(root) + torch.logdet(sigma) - torch.logdet(covariance)
    return float(likelihood - divergence.sum() / 2)


def test_neither_step_lowers_the_bound_of_jaakkola_and_jordan() -> None:
    rng = torch.Generator().manual_seed(6)
    users, each, features, rank = 8, 12, 4, 1
    user = torch.arange(users).repeat_interleave(each)
    tastes = torch.randn(users, features, generator=rng, dtype=torch.float64) * torch.tensor([2.0, 0.5, 0.5, 0.5])
    projected = torch.randn(users * each, features, generator=rng, dtype=torch.float64)
    wins = torch.rand(len(user), generator=rng).double() < torch.sigmoid((projected * tastes[user]).sum(1))
    projected = torch.where(wins[:, None], projected, -projected)
    root = 0.1 * torch.eye(features, dtype=torch.float64)
    values = []
    for _ in range(6):
        moment, likelihood, mean, covariance = jaakkola_jordan(projected, root, user, users)
        values.append(bound(likelihood, mean, covariance, root))
        root = most_likely_taste(moment, rank).root
        values.append(bound(likelihood, mean, covariance, root))
    assert all(after >= before - 1e-6 for before, after in pairwise(values))
    assert values[-1] > values[0] + 0.2


def test_the_covariance_of_a_second_moment_is_the_likeliest_of_its_form() -> None:
    rng = torch.Generator().manual_seed(7)
    draws = torch.randn(50, 5, generator=rng, dtype=torch.float64)
    moment = draws.T @ draws / 50

    def likelihood(root: torch.Tensor) -> float:
        sigma = root @ root.T
        return -float(torch.logdet(sigma) + torch.trace(torch.linalg.solve(sigma, moment)))

    best = most_likely_taste(moment, rank=2).root
    torch.testing.assert_close(most_likely_taste(moment, rank=5).root @ most_likely_taste(moment, 5).root.T, moment)
    for _ in range(50):
        directions = best[:, :2] + 0.05 * torch.randn(5, 2, generator=rng, dtype=torch.float64)
        noise = float(best[:, 4].norm()) * float(torch.exp(0.1 * torch.randn(1, generator=rng)))
        left = torch.linalg.qr(torch.cat([directions, torch.eye(5).double()], dim=1)).Q[:, 2:5]
        assert likelihood(torch.cat([directions, noise * left], dim=1)) <= likelihood(best) + 1e-9


# --- what is chosen, and what a person is kept in -----------------------------------------------------------------


def test_an_automatic_rank_is_near_the_number_of_planted_tastes() -> None:
    rng = torch.Generator().manual_seed(8)
    users, each, features, planted = 80, 60, 12, 3
    vectors = torch.randn(600, features, generator=rng, dtype=torch.float64)
    tastes = torch.randn(users, planted, generator=rng, dtype=torch.float64) @ (
        2 * torch.eye(features).double()[:planted]
    )
    user = torch.arange(users).repeat_interleave(each)
    first, second = torch.randint(600, (2, len(user)), generator=rng)
    margin = ((vectors[first] - vectors[second]) * tastes[user]).sum(1)
    wins = torch.rand(len(user), generator=rng, dtype=torch.float64) < torch.sigmoid(margin)
    pairs = Pairs.from_rows(vectors, torch.where(wins, first, second), torch.where(wins, second, first), user)
    fit = fit_basis(pairs, FitConfig(family="gaussian", rank="auto"))
    assert abs(fit.basis.rank - planted) <= 2
    variances = fit.basis.vectors.square().sum(0)
    assert float(variances[planted - 1]) > 5 * float(variances[planted + 1])


def test_a_ladder_is_climbed_to_where_the_loss_is_lowest_and_one_rung_beyond() -> None:
    ladder = (1, 2, 4, 8, 16, 32)
    for best in ladder:
        tried = climb(ladder, 4, lambda rung, best=best: abs(rung - best))  # type: ignore[misc]
        assert min(tried, key=tried.__getitem__) == best
    assert set(climb(ladder, 4, lambda rung: abs(rung - 4))) == {2, 4, 8}


@pytest.mark.parametrize(
    ("repeated", "losses", "expected"),
    [
        (False, {8: 0.5, 10: 0.4998, 12: 0.49975, 6: 0.6}, 10),  # more are worth having, and then no more
        (False, {8: 0.5, 10: 0.4998, 12: 0.6, 6: 0.5, 4: 0.4996, 3: 0.6}, 4),  # and fewer still better
        (False, {8: 0.5, 10: 0.49995, 6: 0.5002, 4: 0.50004, 3: 0.502, 2: 0.4}, 4),  # fewer do, past one that does not
        (False, {8: 0.5, 10: 0.6, 6: 0.5001, 4: 0.5, 3: 0.5, 2: 0.5, 1: 0.5}, 1),
        (True, {8: 0.5, 10: 0.4999, 6: 0.4999, 4: 0.6}, 8),  # as in general, unless another number is surely better
        (True, {8: 0.5, 10: 0.4999, 6: 0.4997, 4: 0.5001}, 6),
        (False, {0: 0.4, 8: 0.5, 10: 0.6, 6: 0.6}, 0),  # none at all
        (True, {0: 0.4, 8: 0.5, 10: 0.6, 6: 0.6}, 0),
    ],
)
def test_as_many_tastes_are_kept_as_are_worth_having(
    monkeypatch: pytest.MonkeyPatch, repeated: bool, losses: dict[int, float], expected: int
) -> None:
    problem = SimpleNamespace(most=16, is_repeated=repeated)
    search = TasteSearch([], FitConfig(family="gaussian"))
    monkeypatch.setattr(search, "_folds", [SimpleNamespace(problem=problem)])
    monkeypatch.setattr(search, "_of_rank", lambda rank, first: replace(first, rank=rank, validation=losses[rank]))
    first, none = (Course(rank, 1.0, 0.1, 1, 1.0, 1.0, losses.get(rank, 1.0)) for rank in (8, 0))
    assert search._fewest(first, none).rank == expected


def test_people_who_are_alike_have_no_tastes() -> None:
    rng = torch.Generator().manual_seed(9)
    vectors = torch.randn(300, 5, generator=rng, dtype=torch.float64)
    first, second = torch.randint(300, (2, 900), generator=rng)
    wins = torch.rand(900, generator=rng).double() < torch.sigmoid(3 * (vectors[first] - vectors[second])[:, 0])
    user = torch.randint(20, (900,), generator=rng)
    pairs = Pairs.from_rows(vectors, torch.where(wins, first, second), torch.where(wins, second, first), user)
    fit = fit_basis(pairs, FitConfig(family="gaussian", rank="auto"))
    assert fit.basis.rank <= 1
    assert float(fit.basis.vectors.square().sum()) < 0.1 * float(fit.basis.center.square().sum())


@pytest.mark.parametrize("seed", [3, 4])
def test_the_center_is_as_long_as_each_chooses_and_not_as_all_do_on_average(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    users, each, features = 100, 40, 6
    vectors = torch.randn(800, features, generator=rng, dtype=torch.float64)
    common = torch.tensor([1.0, 0, 0, 0, 0, 0], dtype=torch.float64)
    tastes = common + 0.8 * (1 - common) * torch.randn(users, features, generator=rng, dtype=torch.float64)
    user = torch.arange(users).repeat_interleave(each)
    first, second = torch.randint(800, (2, len(user)), generator=rng)
    margin = ((vectors[first] - vectors[second]) * tastes[user]).sum(1)
    wins = torch.rand(len(user), generator=rng, dtype=torch.float64) < torch.sigmoid(margin)
    pairs = Pairs.from_rows(vectors, torch.where(wins, first, second), torch.where(wins, second, first), user)
    pooled, personal = fit_bases(pairs, [FitConfig(rank=1), FitConfig(family="gaussian", rank="auto")])
    average, center = pooled.basis.vectors[:, 0], personal.basis.center
    torch.testing.assert_close(torch.nn.functional.cosine_similarity(average, center, dim=0).item(), 1.0)
    assert float(average.norm()) < 0.6  # of the common direction, which is of length 1
    assert 0.8 < float(center.norm()) < 1.2, "the length is not that of a person"


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
    torch.testing.assert_close(basis.leading().leading().vectors, basis.leading().vectors)


def test_the_posterior_is_near_the_stored_one_of_the_exact_distribution() -> None:
    """`tests/golden/posterior.py` integrates the exact posterior on a grid."""
    for case in json.loads((Path(__file__).parent / "golden" / "posterior.json").read_text()):
        differences = torch.tensor(case["differences"], dtype=torch.float64)
        basis = RewardBasis(torch.eye(2).double(), torch.zeros(2).double(), torch.zeros(2).double(), "gaussian", 2)
        people = fit_weights(Pairs.from_differences([differences]), basis)
        mean, covariance = (torch.tensor(case[name], dtype=torch.float64) for name in ("mean", "covariance"))
        torch.testing.assert_close(people.weights[0], mean, atol=case["atol"], rtol=0)
        torch.testing.assert_close(people.covariance(torch.tensor([0]))[0], covariance, atol=case["atol"], rtol=0)
