from dataclasses import replace

import pytest
import torch

import oracle
from builders import random_pairs
from lore.fitting.likelihood import likelihood, simplex_problems
from lore.solvers.simplex_weights import SimplexPrior, simplex_weights
from solvers_builders import choices_of


@pytest.mark.parametrize(("rank", "strength", "scale"), [(2, 0.0, 1.0), (3, 0.01, 1.0), (5, 0.1, 3.0), (4, 0.0, 5.0)])
def test_gap_is_never_below_the_true_suboptimality(rank: int, strength: float, scale: float) -> None:
    choices, projected = choices_of(2, 6, rank, scale)
    population = torch.full((rank,), 1 / rank, dtype=torch.float64)
    prior = SimplexPrior(population, torch.full((2,), strength))
    for tolerance in (1e-2, 1e-8):
        found = simplex_weights(choices, projected, prior, tolerance)
        assert (found.gap <= tolerance).all()
        assert (found.weights > 0).all()
        torch.testing.assert_close(found.weights.sum(1), torch.ones(2, dtype=torch.float64))
        for user in range(2):
            own = projected[choices.user == user]
            _, best = oracle.best_weights(own, strength, population)
            value = torch.nn.functional.softplus(-own @ found.weights[user]).mean()
            value += strength * oracle.divergence(population, found.weights[user : user + 1])[0]
            assert float(value) - best <= float(found.gap[user]) + 1e-9


def test_users_without_pairs_get_the_population() -> None:
    choices, projected = choices_of(3, 4, 3, 1.0)
    population = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    found = simplex_weights(replace(choices, users=4), projected, SimplexPrior(population, torch.zeros(4)), 1e-6)
    torch.testing.assert_close(found.weights[3], population)
    assert found.gap[3] == 0


def test_strong_shrinkage_gives_everybody_the_population() -> None:
    choices, projected = choices_of(3, 4, 3, 1.0)
    population = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    found = simplex_weights(choices, projected, SimplexPrior(population, torch.full((3,), 1e6)), 1e-3)
    torch.testing.assert_close(found.weights, population.expand(3, -1), atol=1e-4, rtol=0)


def test_a_warm_start_ends_where_a_cold_one_does() -> None:
    choices, projected = choices_of(6, 9, 4, 2.0)
    prior = SimplexPrior(torch.full((4,), 0.25), torch.full((6,), 0.02))
    cold = simplex_weights(choices, projected, prior, 1e-10)
    warm = simplex_weights(choices, projected, prior, 1e-10, cold.weights.roll(1, 0))
    torch.testing.assert_close(warm.weights, cold.weights, atol=1e-4, rtol=0)


def test_few_iterations_are_told_by_the_gap() -> None:
    choices, projected = choices_of(4, 9, 5, 3.0)
    prior = SimplexPrior(torch.full((5,), 0.2), torch.zeros(4))
    assert simplex_weights(choices, projected, prior, 1e-10, max_iterations=2).gap.max() > 1e-10


def test_users_of_very_different_size_are_solved_as_if_alone() -> None:
    pairs = random_pairs(users=9, pairs=400, seed=3)
    pairs = pairs.select((pairs.user > 3) | (torch.arange(len(pairs)) % 7 == 0))
    basis = torch.randn(pairs.dim, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    prior = SimplexPrior(torch.full((3,), 1 / 3), torch.full((9,), 0.01))

    def solve(of):
        return simplex_weights(
            simplex_problems(of, 1.0), likelihood(of, "users", 1.0).project(basis), prior, 1e-10
        ).weights

    together = solve(pairs)
    for user in range(9):
        torch.testing.assert_close(solve(pairs.select(pairs.user == user))[user], together[user], atol=1e-5, rtol=0)
