"""The objective of the simplex family as a function of the basis alone, and its minimization.

At every basis the users' weights are solved exactly on the projected pairs (variable projection), so that the basis is
all that is left to minimize over. An evaluation is a pure function of a problem, a basis and the state that the
users' weights are solved with. Several problems over the same pairs are evaluated in one pass over the embeddings.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lore.fitting.likelihood import likelihood, simplex_problems, total_weights
from lore.pairs.table import Pairs
from lore.solvers import simplex
from lore.solvers.lbfgs import Lbfgs, OptimizeResult
from lore.solvers.objective import Average, Likelihood, PenaltyKind, pair_curvature, penalty
from lore.solvers.preconditioners import ColumnScaling, DirectionAndLength, Preconditioner, Spectrum
from lore.solvers.simplex_weights import SimplexPrior, simplex_weights
from lore.solvers.user_problems import UserProblems

STARTS = (0.3, 1.0, 3.0)  # distances of the first columns from the anchor, relative to its length

_MAX_ROUNDS = 5  # of fitting with a population and taking the mean of the weights as the next one
_SETTLED = 1e-3  # change of the population, summed over directions, at which the rounds end
_CERTIFIED = 1e-3  # certified gap, relative to the tolerance, at which a convex fit ends
_INNER_TOLERANCE = 1e-4  # gap of the users' weights within a fit, relative to the tolerance of the basis
_FIRST_TOLERANCE = 1e-7  # gap of the users' weights while starts are compared
_MIN_CURVATURE = 1e-3  # of the loss by a margin at temperature 1; it vanishes if all choices are certain
_LENGTH_RANGE = 1.5  # starts for the cosine penalty have lengths from exp(-1.5) to exp(1.5)
_OFFSETS = (0.0, 0.3)  # their distances from the anchor, relative to its length


@dataclass(frozen=True)
class Regularization:
    """The terms that the objective adds to the loss (`lore.solvers.objective`).

    Attributes:
        reference: direction that columns are drawn to, `[dim]`; zeros for none.
        strength: of the penalty on the basis, 0 or more.
        kind: "distance" or "cosine".
        weight_strength: of the shrinkage of users' weights toward the population, 0 or more.
    """

    reference: Tensor
    strength: float
    kind: PenaltyKind
    weight_strength: float


@dataclass(frozen=True)
class UserState:
    """The state that users' weights are solved with.

    Attributes:
        population: mean of the users' weights, `[rank]`, in float64.
        tolerance: gap at which a user's weights are solved.
        weights: to begin with, `[users, rank]` in float64; None to begin at the population.
    """

    population: Tensor
    tolerance: float = _FIRST_TOLERANCE
    weights: Tensor | None = None


@dataclass(frozen=True)
class Evaluation:
    """The objective at one basis, with every user's weights at their best.

    Attributes:
        loss: mean loss on the pairs, a scalar in float64.
        value: loss, penalty and shrinkage, a scalar in float64.
        gradient: of the value by the basis, `[dim, rank]`.
        weights: of the users, `[users, rank]` in float64.
        curvature: mean second derivative of the loss by a margin, positive.
    """

    loss: Tensor
    value: Tensor
    gradient: Tensor
    weights: Tensor
    curvature: float


@dataclass(frozen=True)
class SimplexProblem:
    """The pairs, regularization and rank of one fit.

    Attributes:
        likelihood: the loss of the pairs.
        users: the users' own problems.
        regularization: what is added to the loss.
        active: users with pairs, a mask `[users]`.
        strength: shrinkage of each user, `[users]`.
        rank: columns of the basis.
    """

    likelihood: Likelihood
    users: UserProblems
    regularization: Regularization
    active: Tensor
    strength: Tensor
    rank: int

    @classmethod
    def of(
        cls, pairs: Pairs, rank: int, average: Average, temperature: float, regularization: Regularization
    ) -> "SimplexProblem":
        """Build the problem of some pairs."""
        totals = total_weights(pairs).double()
        active = totals > 0
        # The share of a user in the loss decides what the same shrinkage means to that user.
        in_loss = totals / totals.sum() if average == "pairs" else active / active.sum()
        relative = torch.where(active, 1 / (in_loss * active.sum()), 0.0)
        return cls(
            likelihood=likelihood(pairs, average, temperature),
            users=simplex_problems(pairs, temperature),
            regularization=regularization,
            active=active,
            strength=regularization.weight_strength * relative,
            rank=rank,
        )

    @property
    def first_state(self) -> UserState:
        """The state before anything is known: equal weights."""
        return UserState(simplex.uniform(1, self.rank, self.regularization.reference)[0].double())

    @property
    def is_strongly_convex(self) -> bool:
        """True for one column with a distance penalty of positive strength."""
        penalized = self.regularization.kind == "distance" and self.regularization.strength > 0
        return self.rank == 1 and penalized

    @property
    def keeps_to_reference(self) -> bool:
        """True if no column of a minimum can be orthogonal to the reference.

        Its penalty alone would exceed the loss of chance, log 2.
        """
        return self.regularization.kind == "cosine" and self.regularization.strength >= math.log(2) * self.rank

    def solve(self, projected: Tensor, state: UserState) -> Tensor:
        """Return every user's best weights `[users, rank]`, in float64, for projected pairs `[pairs, rank]`."""
        if self.rank == 1:
            return state.population.expand(self.users.users, 1)
        prior = SimplexPrior(state.population, self.strength)
        return simplex_weights(self.users, projected, prior, state.tolerance, state.weights).weights

    def shrinkage(self, population: Tensor, weights: Tensor) -> Tensor:
        """Return the penalty on the weights of users with pairs, a scalar."""
        if self.regularization.weight_strength == 0:
            return population.new_zeros(())
        divergence = simplex.divergence(population, weights[self.active])
        return self.regularization.weight_strength * divergence.mean()

    def penalty(self, basis: Tensor) -> Tensor:
        """Return the penalty on a basis, a scalar in float64."""
        regularization = self.regularization
        return penalty(basis, regularization.reference, regularization.strength, regularization.kind).value

    def mean_weights(self, weights: Tensor) -> Tensor:
        """Return the mean weights of users with pairs, `[rank]`."""
        mean = weights[self.active].mean(0)
        return mean / mean.sum()

    def certified_gap(self, evaluation: Evaluation) -> float:
        """Return a bound of how far the value is above its minimum, relative to it, for a strongly convex problem.

        `|gradient|^2 / (4 strength)` bounds it, as the objective is `2 strength`-strongly convex (Boyd and Vandenberghe
        2004, equation 9.9).
        """
        squared = evaluation.gradient.double().square().sum()
        return float(squared / (4 * self.regularization.strength * evaluation.value))


# --- evaluation, several problems in one pass over the embeddings -------------------------------------------------


@dataclass(frozen=True)
class Request:
    """A basis `[dim, rank]` at which a problem is to be evaluated, and the state of its users."""

    problem: SimplexProblem
    basis: Tensor
    state: UserState


def evaluate_many(requests: Sequence[Request]) -> list[Evaluation]:
    """Evaluate problems over the same pairs, in two passes over the embeddings for all of them."""
    projected = _project([request.problem for request in requests], [request.basis for request in requests])
    losses = [_loss(request, columns) for request, columns in zip(requests, projected, strict=True)]
    slopes = [
        request.problem.likelihood.slopes(solved.margin, solved.weights.to(request.basis))
        for request, solved in zip(requests, losses, strict=True)
    ]
    gradients = _project_transposed([request.problem for request in requests], slopes)
    return [
        _evaluation(request, solved, gradient)
        for request, solved, gradient in zip(requests, losses, gradients, strict=True)
    ]


@dataclass(frozen=True)
class SolvedLoss:
    """Loss (a scalar in float64), margins `[pairs]` and weights `[users, rank]` at a basis."""

    loss: Tensor
    margin: Tensor
    weights: Tensor


def solve_many(requests: Sequence[Request]) -> list[SolvedLoss]:
    """Solve the weights of problems over the same pairs, in one pass over the embeddings."""
    projected = _project([request.problem for request in requests], [request.basis for request in requests])
    return [_loss(request, columns) for request, columns in zip(requests, projected, strict=True)]


def _project(problems: Sequence[SimplexProblem], bases: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Project the pairs on all bases at once: reading the embeddings dominates, a few columns more cost little."""
    table = problems[0].likelihood
    return table.project(torch.cat(list(bases), dim=1)).split([basis.shape[1] for basis in bases], dim=1)


def _project_transposed(problems: Sequence[SimplexProblem], values: Sequence[Tensor]) -> tuple[Tensor, ...]:
    table = problems[0].likelihood
    return table.project_transposed(torch.cat(list(values), dim=1)).split([part.shape[1] for part in values], dim=1)


def _loss(request: Request, projected: Tensor) -> SolvedLoss:
    problem = request.problem
    weights = problem.solve(projected, request.state)
    margin = problem.likelihood.margins(projected, weights.to(request.basis))
    return SolvedLoss(problem.likelihood.loss(margin), margin, weights)


def _evaluation(request: Request, solved: SolvedLoss, gradient: Tensor) -> Evaluation:
    problem, regularization = request.problem, request.problem.regularization
    table = problem.likelihood
    curvature = float(table.share @ pair_curvature(solved.margin, table.temperature))
    added = penalty(request.basis, regularization.reference, regularization.strength, regularization.kind)
    shrinkage = problem.shrinkage(request.state.population, solved.weights)
    return Evaluation(
        loss=solved.loss,
        value=solved.loss + added.value + shrinkage,
        gradient=gradient + added.gradient,
        weights=solved.weights,
        curvature=max(curvature, _MIN_CURVATURE / table.temperature**2),
    )


# --- where to start -----------------------------------------------------------------------------------------------


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
    margins = _project(problems, [plan.anchor[:, None] for plan in plans])
    slopes = []
    for plan, margin in zip(plans, margins, strict=True):
        generator = torch.Generator().manual_seed(plan.seed)
        probes = torch.randn(plan.problem.users.users, plan.problem.rank, generator=generator).to(plan.anchor)
        slopes.append(plan.problem.likelihood.slopes(margin.squeeze(1), probes - probes.mean(0)))
    spreads = []
    for plan, gradient in zip(plans, _project_transposed(problems, slopes), strict=True):
        rank = plan.problem.rank
        corners = torch.eye(rank, dtype=plan.anchor.dtype, device=plan.anchor.device) - 1 / rank
        spreads.append(torch.linalg.qr(gradient).Q @ corners)
    return spreads


def _anchor_lengths(plans: Sequence[StartPlan], spreads: Sequence[Tensor]) -> list[float]:
    """Return the length of each anchor; for one at zero, the length at which margins are about the temperature."""
    lengths = [float(plan.anchor.norm()) for plan in plans]
    at_zero = [index for index, length in enumerate(lengths) if length == 0]
    if at_zero:
        projected = _project([plans[index].problem for index in at_zero], [spreads[index] for index in at_zero])
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
                value = float(evaluation.value)
                self._end_round(OptimizeResult(self._basis, value, gap, converged=True, history=self._round_history))
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
