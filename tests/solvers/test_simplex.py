import math

import torch

import oracle
from lore.solvers import simplex


def test_softmax_ignores_a_constant_added_to_the_logits() -> None:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(simplex.from_logits(logits + 100), simplex.from_logits(logits))


def test_entropy_is_zero_at_a_vertex_and_largest_in_the_middle() -> None:
    rows = torch.cat([torch.eye(4), simplex.uniform(1, 4, torch.eye(1))])
    torch.testing.assert_close(simplex.entropy(rows), torch.tensor([0.0, 0.0, 0.0, 0.0, math.log(4)]))


def test_divergence_is_zero_at_the_population_and_infinite_where_nothing_is_left() -> None:
    population = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    inside = simplex.from_logits(torch.randn(4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64))
    torch.testing.assert_close(simplex.divergence(population, inside), oracle.divergence(population, inside))
    edge = simplex.divergence(population, torch.stack([population, torch.tensor([1.0, 0.0, 0.0]).double()]))
    assert edge[0].abs() < 1e-15
    assert edge[1] == math.inf
