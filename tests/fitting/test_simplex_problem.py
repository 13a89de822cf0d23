import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import oracle
from builders import random_pairs
from lore.fitting.config import FitConfig
from lore.fitting.fit import fit_basis
from lore.fitting.likelihood import likelihood, simplex_problems
from lore.fitting.simplex_problem import Evaluation, Regularization, Request, SimplexProblem, evaluate_many
from lore.pairs.table import Pairs
from lore.solvers.objective import ValueAndGradient, pair_curvature, penalty
from lore.solvers.user_problems import PaddedBatch, UserProblems


@dataclass(frozen=True)
class Drawn:
    """A problem as odd as the data may be, and a basis to look at it from."""

    pairs: Pairs
    penalties: Regularization
    average: str
    temperature: float
    basis: Tensor

    def value_and_gradient(self, basis: Tensor | None = None) -> ValueAndGradient:
        basis = self.basis if basis is None else basis
        evaluation = self.evaluation(basis)
        return ValueAndGradient(evaluation.value, evaluation.gradient)

    def evaluation(self, basis: Tensor) -> Evaluation:
        problem = SimplexProblem.of(self.pairs, basis.shape[1], self.average, self.temperature, self.penalties)
        state = replace(problem.first_state, tolerance=1e-12)
        return evaluate_many([Request(problem, basis, state)])[0]

    def scale(self) -> float:
        """What rounding is measured by: the loss can be as large as the largest margin."""
        return max(1.0, float(self.value_and_gradient().value))


@st.composite
def drawn(draw: st.DrawFn) -> Drawn:
    """One user or several, some without pairs or with no weight; ties, soft labels, duplicates; margins of some 1e4.

    The first pair always tells something: a fit refuses data of which none does.
    """
    users, rank = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    dim, count = draw(st.integers(rank, 5)), draw(st.integers(1, 12))
    seed = draw(st.integers(0, 10_000))
    rng = torch.Generator().manual_seed(seed)
    pairs = random_pairs(users, 6, dim, count, seed=seed)
    label = torch.rand(count, generator=rng, dtype=torch.float64).round(decimals=1)
    weight = torch.rand(count, generator=rng, dtype=torch.float64) * (torch.rand(count, generator=rng) < 0.8)
    weight[0] = 1.0
    pairs = replace(pairs, label=label, weight=weight)
    if count > 1 and draw(st.booleans()):
        pairs = replace(pairs, rejected=torch.where(torch.arange(count) == count - 1, pairs.chosen, pairs.rejected))
    if draw(st.booleans()):
        pairs = pairs.select(torch.arange(count).repeat(2))
    vectors = pairs.vectors * draw(st.sampled_from([1.0, 1e3]))
    kind = draw(st.sampled_from(["distance", "cosine"]))
    reference = torch.randn(dim, generator=rng, dtype=torch.float64)
    strengths = [draw(st.sampled_from([0.0, 1e-3, 1.0])) for _ in range(2)]
    return Drawn(
        pairs=replace(pairs, vectors=vectors),
        penalties=Regularization(reference, strengths[0], kind, strengths[1]),
        average=draw(st.sampled_from(["users", "pairs"])),
        temperature=draw(st.sampled_from([0.5, 1.0, 100.0])),
        basis=torch.randn(dim, rank, generator=rng, dtype=torch.float64),
    )


def objective(problem: Drawn, basis: Tensor, weights: Tensor) -> Tensor:
    """The formula of docs/model.md, pair by pair, at given weights; the population is uniform."""
    penalties, rank = problem.penalties, basis.shape[1]
    loss = oracle.loss(problem.pairs, basis, weights, problem.average, problem.temperature)
    loss = loss + oracle.penalty(basis, penalties.reference, penalties.strength, penalties.kind)
    totals = torch.zeros(len(weights)).double().index_add(0, problem.pairs.user, problem.pairs.weight)
    shrunk = oracle.divergence(torch.full((rank,), 1 / rank).double(), weights[totals > 0])
    return loss + penalties.weight_strength * shrunk.mean()


@settings(deadline=None, max_examples=80)
@given(drawn())
def test_value_and_gradient_are_those_of_the_formula_at_the_best_weights(problem: Drawn) -> None:
    evaluation = problem.evaluation(problem.basis)
    value, gradient = evaluation.value, evaluation.gradient
    assert bool(value.isfinite())
    assert bool(gradient.isfinite().all())
    # By the envelope theorem the weights may be held still while the basis is moved.
    basis = problem.basis.clone().requires_grad_()
    expected = objective(problem, basis, evaluation.weights)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-6, atol=1e-9)
    by_basis = torch.autograd.grad(expected, basis)[0]
    torch.testing.assert_close(gradient, by_basis, rtol=1e-6, atol=1e-9 * max(1.0, float(by_basis.abs().max())))


@settings(deadline=None, max_examples=40)
@given(drawn(), st.integers(0, 1_000))
def test_permuting_columns_users_and_pairs_changes_nothing(problem: Drawn, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    columns = torch.randperm(problem.basis.shape[1], generator=rng)
    people = torch.randperm(len(problem.pairs.users), generator=rng)
    pairs = problem.pairs.select(torch.randperm(len(problem.pairs), generator=rng)).for_users(people)
    value, gradient = problem.value_and_gradient()
    moved = replace(problem, pairs=pairs, basis=problem.basis[:, columns]).value_and_gradient()
    # With margins beyond 1e4 rounding ends the weights' steps at gaps of up to 1e-4, in whichever order.
    torch.testing.assert_close(moved.value, value, rtol=1e-5, atol=1e-5 * problem.scale())
    atol = max(1e-5 * problem.scale(), 1e-4 * float(gradient.abs().max()))
    torch.testing.assert_close(moved.gradient, gradient[:, columns], rtol=1e-4, atol=atol)


@settings(deadline=None, max_examples=40)
@given(
    drawn(), st.sampled_from(["weight split in two", "weights doubled", "embeddings and temperature", "differences"])
)
def test_what_says_the_same_has_the_same_objective(problem: Drawn, change: str) -> None:
    pairs = problem.pairs
    rows = torch.arange(len(pairs))
    if change == "weight split in two":
        twice = pairs.select(rows.repeat(2))
        changed = replace(problem, pairs=replace(twice, weight=twice.weight / 2))
    elif change == "weights doubled":
        changed = replace(problem, pairs=replace(pairs, weight=2 * pairs.weight))
    elif change == "embeddings and temperature":
        longer = replace(pairs, vectors=10 * pairs.vectors)
        changed = replace(problem, pairs=longer, temperature=10 * problem.temperature)
    else:
        table = pairs.differences()
        changed = replace(problem, pairs=replace(pairs, vectors=table, chosen=rows, rejected=None))
    torch.testing.assert_close(
        changed.value_and_gradient().value, problem.value_and_gradient().value, rtol=1e-6, atol=1e-9
    )


def hessian_of(block: PaddedBatch, margin: Tensor) -> Tensor:
    """Second derivatives of each user's loss by the weights, `[users, columns, columns]`."""
    curvature = block.share * pair_curvature(margin, block.temperature)
    return (block.projected * curvature[:, :, None]).transpose(1, 2) @ block.projected


@settings(deadline=None, max_examples=40)
@given(drawn())
def test_a_users_hessian_times_a_vector_is_autograds(problem: Drawn) -> None:
    choices: UserProblems = simplex_problems(problem.pairs, problem.temperature)
    projected = problem.pairs.differences() @ problem.basis
    rng = torch.Generator().manual_seed(0)
    weights = torch.rand(len(problem.pairs.users), problem.basis.shape[1], generator=rng, dtype=torch.float64)
    for block in choices.blocks(projected, None):
        point, vector = weights[block.users], torch.randn(len(block.users), weights.shape[1], generator=rng).double()
        _, expected = torch.autograd.functional.hvp(lambda w, b=block: b.loss(b.margins(w)).sum(), point, vector)
        found = (hessian_of(block, block.margins(point)) @ vector[:, :, None]).squeeze(2)
        # Beyond margins of 20 torch takes the curvature of softplus, 2e-9 at most, for nothing.
        atol = 1e-8 * max(1.0, float((projected / problem.temperature).square().max()))
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=atol)
        # The solution of (Hessian + diagonal) x = right, in whichever space it is found, gives the right side back.
        diagonal = torch.rand(point.shape, generator=rng).double() + 0.1
        solved = block.solve(block.margins(point), diagonal, vector[:, :, None]).squeeze(2)
        back = (hessian_of(block, block.margins(point)) @ solved[:, :, None]).squeeze(2) + diagonal * solved
        size = float(hessian_of(block, block.margins(point)).abs().max())
        torch.testing.assert_close(back, vector, rtol=1e-4, atol=1e-6 * max(1.0, size))


@pytest.mark.filterwarnings("ignore::lore.errors.ConvergenceWarning")
@settings(deadline=None, max_examples=30)
@given(drawn())
def test_a_fit_of_odd_data_is_finite_and_lower_than_where_it_began(problem: Drawn) -> None:
    penalties, rank = problem.penalties, problem.basis.shape[1]
    config = FitConfig(
        rank=rank,
        strength=penalties.strength,
        weight_strength=penalties.weight_strength,
        penalty=penalties.kind,
        average=problem.average,
        temperature=problem.temperature,
        max_iterations=50,
    )
    fit = fit_basis(problem.pairs, config, penalties.reference)
    for numbers in (fit.basis.vectors, fit.weights, torch.tensor([fit.loss, fit.objective])):
        assert bool(numbers.isfinite().all())
    torch.testing.assert_close(fit.weights.sum(1), torch.ones(len(fit.weights)).double())
    assert fit.history[-1] <= fit.history[0] * (1 + 1e-9)
    without = problem.pairs.counts == 0
    torch.testing.assert_close(fit.weights[without], fit.basis.population.expand(int(without.sum()), -1))


@pytest.mark.parametrize("strength", [1.0, 1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("seed", range(3))
def test_the_gap_of_a_convex_fit_is_never_below_the_true_suboptimality(strength: float, seed: int) -> None:
    pairs = random_pairs(seed=seed)
    config = FitConfig(rank=1, strength=strength)
    rough, long = (fit_basis(pairs, replace(config, tolerance=tolerance)) for tolerance in (1e-2, 1e-9))
    assert 0 <= rough.objective - long.objective <= rough.gap * rough.objective
    assert long.gap < 1e-9
    assert math.isfinite(rough.gap)


@settings(deadline=None, max_examples=40)
@given(drawn())
def test_the_basis_gradients_derivative_is_autograds_hessian_times_a_vector(problem: Drawn) -> None:
    """With the weights held: differentiating our gradient once is differentiating the pair-by-pair formula twice."""
    pairs, penalties, basis = problem.pairs, problem.penalties, problem.basis
    table = likelihood(pairs, problem.average, problem.temperature)
    rng = torch.Generator().manual_seed(0)
    weights = torch.softmax(torch.randn(len(pairs.users), basis.shape[1], generator=rng, dtype=basis.dtype), dim=1)
    step = torch.randn(basis.shape, generator=rng, dtype=basis.dtype)

    def gradient(at: Tensor) -> Tensor:
        ours = table.project_transposed(table.slopes(table.margins(table.project(at), weights), weights))
        return ours + penalty(at, penalties.reference, penalties.strength, penalties.kind).gradient

    def objective(at: Tensor) -> Tensor:
        difference = pairs.vectors[pairs.chosen] - pairs.vectors[pairs.rejected]
        margin = ((difference @ at) * weights[pairs.user]).sum(1) / problem.temperature
        # Not softplus, which torch takes to be straight, without curvature, beyond 20.
        losses = (1 - pairs.label) * margin - torch.nn.functional.logsigmoid(margin)
        return (table.share * losses).sum() + penalty(at, penalties.reference, penalties.strength, penalties.kind).value

    _, ours = torch.func.jvp(gradient, (basis,), (step,))
    _, autograds = torch.autograd.functional.hvp(objective, basis, step)
    size = 1 + float(autograds.abs().max())
    torch.testing.assert_close(ours, autograds, atol=1e-8 * size, rtol=1e-6)
