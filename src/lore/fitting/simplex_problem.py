"""The objective of the simplex family as a function of the basis alone.

At every basis the users' weights are solved exactly on the projected pairs (variable projection), so that the basis is
all that is left to minimize over. An evaluation is a pure function of a problem, a basis and the state that the
users' weights are solved with. Several problems over the same pairs are evaluated in one pass over the embeddings.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lore.fitting.likelihood import likelihood, simplex_problems, total_weights
from lore.pairs.table import Pairs
from lore.solvers import simplex
from lore.solvers.objective import Average, Likelihood, PenaltyKind, pair_curvature, penalty
from lore.solvers.simplex_weights import SimplexPrior, simplex_weights
from lore.solvers.user_problems import UserProblems

_FIRST_TOLERANCE = 1e-7  # gap of the users' weights while starts are compared
_MIN_CURVATURE = 1e-3  # of the loss by a margin at temperature 1; it vanishes if all choices are certain


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


@dataclass(frozen=True)
class SolvedLoss:
    """Loss (a scalar in float64), margins `[pairs]` and weights `[users, rank]` at a basis."""

    loss: Tensor
    margin: Tensor
    weights: Tensor


def evaluate_many(requests: Sequence[Request]) -> list[Evaluation]:
    """Evaluate problems over the same pairs, in two passes over the embeddings for all of them."""
    return evaluate_and_solve(requests, [])[0]


def solve_many(requests: Sequence[Request]) -> list[SolvedLoss]:
    """Solve the weights of problems over the same pairs, in one pass over the embeddings."""
    return evaluate_and_solve([], requests)[1]


def evaluate_and_solve(
    evaluated: Sequence[Request], solved: Sequence[Request]
) -> tuple[list[Evaluation], list[SolvedLoss]]:
    """Evaluate some problems, and solve the weights alone of others over the same pairs, in the same passes."""
    requests = [*evaluated, *solved]
    projected = project([request.problem for request in requests], [request.basis for request in requests])
    losses = [_loss(request, columns) for request, columns in zip(requests, projected, strict=True)]
    if not evaluated:
        return [], losses
    at_evaluated, at_solved = losses[: len(evaluated)], losses[len(evaluated) :]
    slopes = [
        request.problem.likelihood.slopes(loss.margin, loss.weights.to(request.basis))
        for request, loss in zip(evaluated, at_evaluated, strict=True)
    ]
    gradients = project_transposed([request.problem for request in evaluated], slopes)
    evaluations = [
        _evaluation(request, loss, gradient)
        for request, loss, gradient in zip(evaluated, at_evaluated, gradients, strict=True)
    ]
    return evaluations, at_solved


def project(problems: Sequence[SimplexProblem], bases: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Project the pairs on all bases at once: reading the embeddings dominates, a few columns more cost little."""
    table = problems[0].likelihood
    return table.project(torch.cat(list(bases), dim=1)).split([basis.shape[1] for basis in bases], dim=1)


def project_transposed(problems: Sequence[SimplexProblem], values: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Apply the adjoint of `project` to values `[pairs, rank]` of all problems at once."""
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
