"""Minimizing the objective of the simplex family: where columns start, and the descent from there."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lore.fitting.simplex_problem import (
    Evaluation,
    Request,
    SimplexProblem,
    UserState,
    evaluate_and_solve,
    evaluate_many,
    project,
    project_transposed,
)
from lore.solvers.lbfgs import Lbfgs, OptimizeResult, relative_gradient
from lore.solvers.preconditioners import ColumnScaling, DirectionAndLength, Preconditioner, Spectrum

STARTS = (0.3, 1.0, 3.0)  # distances of the first columns from the anchor, relative to its length
_MAX_ROUNDS = 5  # of fitting with a population and taking the mean of the weights as the next one
_SETTLED = 1e-3  # change of the population, summed over directions, at which the rounds end
_CERTIFIED = 1e-3  # certified gap, relative to the tolerance, at which a convex fit ends
_INNER_TOLERANCE = 1e-4  # gap of the users' weights within a fit, relative to the tolerance of the basis
_LENGTH_RANGE = 1.5  # starts for the cosine penalty have lengths from exp(-1.5) to exp(1.5)
_OFFSETS = (0.0, 0.3)  # their distances from the anchor, relative to its length


@dataclass(frozen=True)
class StartPlan:
    """The arguments of the starts of one descent.

    Attributes:
        problem: whose columns are started.
        anchor: direction that they are around, `[dim]`.
        seed: of the directions.
        distances: from the anchor, relative to its length; one start each.
    """

    problem: SimplexProblem
    anchor: Tensor
    seed: int
    distances: Sequence[float] = STARTS


def starting_bases(plans: Sequence[StartPlan]) -> list[list[Tensor]]:
    """Return, for each plan, bases around its anchor along the directions in which users differ most.

    The directions are those of the gradient for random weights. All plans are made in the same passes.
    """
    starts = [[plan.anchor[:, None].clone()] for plan in plans]
    several = [index for index, plan in enumerate(plans) if plan.problem.rank > 1]
    if several:
        spreads = _spreads([plans[index] for index in several])
        lengths = _anchor_lengths([plans[index] for index in several], spreads)
        for index, spread, length in zip(several, spreads, lengths, strict=True):
            plan = plans[index]
            if plan.problem.keeps_to_reference:
                starts[index] = _starts_along(plan, spread)
            else:
                starts[index] = [plan.anchor[:, None] + length * step * spread for step in plan.distances]
    return starts


def _spreads(plans: Sequence[StartPlan]) -> list[Tensor]:
    """Return the corners of a simplex around zero in the plane along which users differ most, `[dim, rank]` each."""
    problems = [plan.problem for plan in plans]
    margins = project(problems, [plan.anchor[:, None] for plan in plans])
    slopes = []
    for plan, margin in zip(plans, margins, strict=True):
        generator = torch.Generator().manual_seed(plan.seed)
        probes = torch.randn(plan.problem.users.users, plan.problem.rank, generator=generator).to(plan.anchor)
        slopes.append(plan.problem.likelihood.slopes(margin.squeeze(1), probes - probes.mean(0)))
    spreads = []
    for plan, gradient in zip(plans, project_transposed(problems, slopes), strict=True):
        rank = plan.problem.rank
        corners = torch.eye(rank, dtype=plan.anchor.dtype, device=plan.anchor.device) - 1 / rank
        spreads.append(torch.linalg.qr(gradient).Q @ corners)
    return spreads


def _anchor_lengths(plans: Sequence[StartPlan], spreads: Sequence[Tensor]) -> list[float]:
    """Return the length of each anchor; for one at zero, the length at which margins are about the temperature."""
    lengths = [float(plan.anchor.norm()) for plan in plans]
    at_zero = [index for index, length in enumerate(lengths) if length == 0]
    if at_zero:
        projected = project([plans[index].problem for index in at_zero], [spreads[index] for index in at_zero])
        for index, columns in zip(at_zero, projected, strict=True):
            temperature = plans[index].problem.likelihood.temperature
            lengths[index] = temperature / float(columns.norm(dim=1).mean())
    return lengths


def _starts_along(plan: StartPlan, spread: Tensor) -> list[Tensor]:
    """Return columns of different lengths, along the anchor or some way off."""
    anchor = plan.anchor
    log_lengths = torch.linspace(-_LENGTH_RANGE, _LENGTH_RANGE, spread.shape[1], device=anchor.device)
    lengths = log_lengths.exp().to(anchor)
    across = spread - anchor[:, None] * (anchor @ spread) / anchor.square().sum()
    return [
        size * lengths * (anchor[:, None] + offset * float(anchor.norm()) * across)
        for size in plan.distances
        for offset in _OFFSETS
    ]


# --- descents -----------------------------------------------------------------------------------------------------

BetterBasis = Callable[[Tensor, Tensor], None]


def _ignore(basis: Tensor, population: Tensor) -> None:
    """Do nothing about a better basis."""


class SimplexDescent:
    """A minimization over the basis, as ask and tell: the best of some starts, then L-BFGS.

    With `settle_population` it goes on in rounds, each with the mean of the users' weights as the next population.

    Attributes:
        done: True if there is nothing more to ask.
        result: the minimum, once it is done.
        state: population and weights of the last evaluation.
    """

    def __init__(
        self,
        problem: SimplexProblem,
        starts: Sequence[Tensor],
        spectrum: Spectrum,
        tolerance: float,
        max_iterations: int,
        *,
        state: UserState | None = None,
        settle_population: bool = False,
        on_better: BetterBasis = _ignore,
    ) -> None:
        """Begin a minimization.

        Args:
            problem: what to minimize.
            starts: bases `[dim, rank]` to choose the first one from.
            spectrum: of the pairs' differences, for the preconditioner.
            tolerance: of the relative gradient.
            max_iterations: steps at most, in each round.
            state: of the users, from an earlier descent.
            settle_population: go on until the population is the mean of the weights.
            on_better: called with every better basis, and the population that goes with it.
        """
        self.done = False
        self.result: OptimizeResult
        self.state = state or problem.first_state
        self._problem, self._spectrum = problem, spectrum
        self._tolerance, self._max_iterations = tolerance, max_iterations
        self._rounds_left = _MAX_ROUNDS if settle_population else 0
        self._on_better = on_better
        self._untried, self._tried = list(starts), list[tuple[float, Tensor]]()
        self._history: list[float] = []
        if len(starts) == 1:
            self._begin_round(self._untried.pop())

    def ask(self) -> Request:
        """Return the evaluation that is wanted next."""
        return Request(self._problem, self._untried[0] if self._untried else self._basis, self.state)

    def tell(self, evaluation: Evaluation) -> None:
        """Take the evaluation that was asked for."""
        self.state = replace(self.state, weights=evaluation.weights)
        if self._untried:
            self._tried.append((float(evaluation.value), self._untried.pop(0)))
            if not self._untried:
                values = [value for value, _ in self._tried]
                self._begin_round(self._tried[values.index(min(values))][1])
            return
        self._step(evaluation)

    @property
    def minimum(self) -> Request:
        """The problem at the minimum, once it is done."""
        return Request(self._problem, self.result.point, self.state)

    def _begin_round(self, start: Tensor) -> None:
        self.state = replace(self.state, tolerance=_INNER_TOLERANCE * self._tolerance)
        self._basis, self._lowest = start, math.inf
        self._round_history: list[float] = []
        self._search: Lbfgs | None = None
        self._coordinates: Preconditioner

    def _step(self, evaluation: Evaluation) -> None:
        if evaluation.value < self._lowest:
            self._lowest = float(evaluation.value)
            self._on_better(self._basis, self.state.population)
            self._round_history.append(self._lowest)
        if self._problem.is_strongly_convex:
            gap = self._problem.certified_gap(evaluation)
            if gap <= _CERTIFIED * self._tolerance:
                self._end_round(self._certified(evaluation))
                return
        if self._search is None:
            self._coordinates = preconditioner(self._problem, self._basis, self._spectrum, evaluation.curvature)
            start = self._coordinates.from_basis(self._basis)
            self._search = Lbfgs(start, self._tolerance, self._max_iterations)
        point = self._search.ask()
        self._search.tell(evaluation.value, self._coordinates.pullback(point, evaluation.gradient))
        if self._search.done:
            result = self._search.result()
            self._end_round(replace(result, point=self._coordinates.to_basis(result.point)))
        else:
            self._basis = self._coordinates.to_basis(self._search.ask())

    def _certified(self, evaluation: Evaluation) -> OptimizeResult:
        optimality = relative_gradient(self._basis, evaluation.value, evaluation.gradient)
        return OptimizeResult(
            self._basis, float(evaluation.value), optimality, converged=True, history=self._round_history
        )

    def _end_round(self, result: OptimizeResult) -> None:
        self._history += result.history
        self.result = replace(result, history=self._history)
        if self._rounds_left == 0:
            self.done = True
            return
        assert self.state.weights is not None  # noqa: S101 - told before
        population = self._problem.mean_weights(self.state.weights)
        moved = float((population - self.state.population).abs().sum())
        self.state = replace(self.state, population=population)
        self._rounds_left -= 1
        if self._problem.regularization.weight_strength == 0 or moved < _SETTLED:
            self.done = True
        else:
            self._begin_round(result.point)


def descend(descents: Sequence[SimplexDescent]) -> None:
    """Run minimizations over the same pairs to their ends, evaluating all of them in the same passes."""
    while active := [descent for descent in descents if not descent.done]:
        evaluations = evaluate_many([descent.ask() for descent in active])
        for descent, evaluation in zip(active, evaluations, strict=True):
            descent.tell(evaluation)


@dataclass(frozen=True)
class Minimum:
    """A minimum, with the users' weights solved there.

    Attributes:
        request: the problem, its basis and the state of its users.
        loss: mean loss on the pairs, a scalar in float64.
        weights: of the users, `[users, rank]` in float64.
        gap: certified gap; None for a problem that is not strongly convex.
    """

    request: Request
    loss: Tensor
    weights: Tensor
    gap: float | None


def iterate_minima(descents: Sequence[SimplexDescent]) -> Iterator[tuple[int, Minimum]]:
    """Run minimizations over the same pairs, all in the same passes; yield the number and minimum of each as it ends.

    The weights at a minimum are solved in a pass that the other minimizations share.
    """
    ended: list[int] = []
    while True:
        active = [number for number, descent in enumerate(descents) if not descent.done]
        if not active and not ended:
            return
        convex = [number for number in ended if descents[number].minimum.problem.is_strongly_convex]
        others = [number for number in ended if number not in convex]
        evaluations, solved = evaluate_and_solve(
            [*(descents[number].ask() for number in active), *(descents[number].minimum for number in convex)],
            [descents[number].minimum for number in others],
        )
        for number, evaluation in zip(active, evaluations, strict=False):
            descents[number].tell(evaluation)
        for number, evaluation in zip(convex, evaluations[len(active) :], strict=True):
            request = descents[number].minimum
            gap = request.problem.certified_gap(evaluation)
            yield number, Minimum(request, evaluation.loss, evaluation.weights, gap)
        for number, at_minimum in zip(others, solved, strict=True):
            yield number, Minimum(descents[number].minimum, at_minimum.loss, at_minimum.weights, None)
        ended = [number for number in active if descents[number].done]


def preconditioner(problem: SimplexProblem, basis: Tensor, spectrum: Spectrum, loss_curvature: float) -> Preconditioner:
    """Return coordinates for a descent that begins at a basis.

    Args:
        problem: what is minimized.
        basis: `[dim, rank]`.
        spectrum: of the pairs' differences.
        loss_curvature: mean second derivative of the loss by a margin at that basis.
    """
    rank, regularization = basis.shape[1], problem.regularization
    curvature = loss_curvature / rank**1.5  # a column gets 1/rank of the weight if equal, all of it at a corner
    if regularization.kind == "distance":
        return ColumnScaling.of(spectrum, curvature, regularization.strength)
    length = float(basis.norm(dim=0).mean())
    if problem.keeps_to_reference:
        strength = regularization.strength / rank
        return DirectionAndLength.of(spectrum, curvature, strength, regularization.reference, length)
    return ColumnScaling.of(spectrum, curvature, regularization.strength / (2 * rank * length**2))
