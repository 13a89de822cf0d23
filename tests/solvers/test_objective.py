from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from builders import random_pairs
from lore.fitting.likelihood import likelihood
from lore.pairs.table import Pairs
from lore.solvers.objective import pair_curvature, pair_loss, pair_shares, pair_slope, penalty


@st.composite
def problems(draw: st.DrawFn) -> tuple[Pairs, torch.Tensor, torch.Tensor, float]:
    """Pairs with soft labels and pair weights, a basis and weights; some users have no pairs."""
    users, dim = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    rank, count = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    pairs = random_pairs(users, 6, dim, count, seed=draw(st.integers(0, 100)))
    label = torch.rand(count, generator=rng, dtype=torch.float64)
    weight = torch.rand(count, generator=rng, dtype=torch.float64) + 0.1
    pairs = replace(pairs, label=label, weight=weight)
    if draw(st.booleans()):
        differences = pairs.vectors[pairs.chosen] - pairs.vectors[pairs.rejected]
        pairs = replace(pairs, vectors=differences, chosen=torch.arange(count), rejected=None)
    basis = torch.randn(dim, rank, generator=rng, dtype=torch.float64)
    weights = torch.softmax(torch.randn(users, rank, generator=rng, dtype=torch.float64), 1)
    return pairs, basis, weights, draw(st.sampled_from([0.5, 1.0, 100.0]))


@settings(deadline=None, max_examples=40)
@given(problem=problems(), average=st.sampled_from(["users", "pairs"]))
def test_loss_and_gradients_equal_the_oracle_and_autograd(problem, average: str) -> None:
    pairs, basis, weights, temperature = problem
    basis, weights = basis.requires_grad_(), weights.requires_grad_()
    expected = oracle.loss(pairs, basis, weights, average, temperature)
    by_basis, by_weights = torch.autograd.grad(expected, [basis, weights])
    with torch.no_grad():
        table = likelihood(pairs, average, temperature)
        projected = table.project(basis)
        margin = table.margins(projected, weights)
        torch.testing.assert_close(table.loss(margin), expected.detach())
        torch.testing.assert_close(table.project_transposed(table.slopes(margin, weights)), by_basis)
        torch.testing.assert_close(table.weights_gradient(projected, weights), by_weights)


@pytest.mark.parametrize("kind", ["distance", "cosine"])
def test_penalty_and_its_gradient_equal_the_oracle_and_autograd(kind: str) -> None:
    rng = torch.Generator().manual_seed(0)
    basis = torch.randn(5, 3, generator=rng, dtype=torch.float64).requires_grad_()
    reference = torch.randn(5, generator=rng, dtype=torch.float64)
    expected = oracle.penalty(basis, reference, 0.7, kind)
    found = penalty(basis.detach(), reference, 0.7, kind)
    torch.testing.assert_close(found.value, expected.detach())
    torch.testing.assert_close(found.gradient, torch.autograd.grad(expected, basis)[0])


def test_cosine_penalty_is_exact_where_float32_cosines_are_one() -> None:
    reference = torch.ones(4096)
    nudged = reference.clone()
    nudged[0] += 1e-3
    expected = oracle.penalty(nudged.double()[:, None], reference.double(), 1.0, "cosine")
    assert float(penalty(nudged[:, None], reference, 1.0, "cosine").value) == pytest.approx(float(expected), rel=1e-2)


def test_loss_is_finite_at_any_margin() -> None:
    margin = torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4])
    label = torch.tensor([1.0, 0.5, 1.0, 0.0, 1.0])
    for values in (pair_loss(margin, label, 1.0), pair_slope(margin, label, 1.0), pair_curvature(margin, 1.0)):
        assert values.isfinite().all()
    assert pair_loss(margin, label, 1.0)[0] == 1e4


def test_curvature_is_the_derivative_of_the_slope() -> None:
    margin = torch.linspace(-5, 5, 11, dtype=torch.float64).requires_grad_()
    slope = pair_slope(margin, torch.full_like(margin, 0.3), 2.0).sum()
    torch.testing.assert_close(torch.autograd.grad(slope, margin)[0], pair_curvature(margin.detach(), 2.0))


def test_splitting_a_pairs_weight_in_two_changes_nothing(planted: Pairs) -> None:
    basis = torch.randn(planted.dim, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.full((len(planted.users), 3), 1 / 3, dtype=torch.float64)
    twice = planted.select(torch.cat([torch.arange(len(planted)), torch.tensor([0])]))
    halved = torch.ones(len(twice), dtype=torch.float64)
    halved[[0, -1]] = 0.5
    for average in ("users", "pairs"):
        values = []
        for pairs in (planted, replace(twice, weight=halved)):
            table = likelihood(pairs, average, 1.0)
            values.append(table.loss(table.margins(table.project(basis), weights)))
        torch.testing.assert_close(*values)


def test_shares_sum_to_one_and_leave_out_users_without_weight() -> None:
    user, weight = torch.tensor([0, 0, 2, 3]), torch.tensor([1.0, 3.0, 2.0, 0.0])
    torch.testing.assert_close(pair_shares(user, weight, 5, "users"), torch.tensor([0.125, 0.375, 0.5, 0.0]))
    torch.testing.assert_close(pair_shares(user, weight, 5, "pairs"), weight / 6)
