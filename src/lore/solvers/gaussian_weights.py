"""Users' weights under a standard normal prior, basis fixed: Newton's method, with the posterior's covariance."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lore.solvers.lbfgs import ARMIJO
from lore.solvers.objective import pair_curvature
from lore.solvers.user_problems import BLOCK_PAIRS, DAMPING, PaddedBatch, UserProblems

_SMALL = 100_000  # numbers of a block whose Hessian costs little

_SHORTEST = 2.0**-40  # part of a Newton step, below which rounding decides
_ROUNDING = 1e-13  # of an objective, relative to it
_CHORD = 0.01  # a Newton step that shrinks the gap to less is followed by one with the same Hessian


@dataclass(frozen=True)
class Posterior:
    """Gaussian approximations of users' posteriors.

    Attributes:
        weights: modes, `[users, columns]`.
        gap: upper bounds of how far each objective is above its minimum, `[users]`.
        second_moment: sum over users with pairs of `mode mode^T + covariance`, `[columns, columns]`; zeros if it was
            not asked for.
    """

    weights: Tensor
    gap: Tensor
    second_moment: Tensor


def gaussian_weights(
    problems: UserProblems,
    projected: Tensor,
    offset: Tensor,
    tolerance: float,
    *,
    start: Tensor | None = None,
    moments: bool = False,
    max_iterations: int = 100,
) -> Posterior:
    """Minimize, for every user, `|w|^2 / 2` plus the summed loss: the posterior mode under w ~ N(0, I).

    Newton's method, all users of a block at once. As the objective is 1-strongly convex, `|gradient|^2 / 2` bounds how
    far it is above its minimum. Steps are shortened until the objective falls enough (Nocedal and Wright 2006, section
    3.1), not that bound: on the way to the minimum of large margins it may have to rise.

    Args:
        problems: the users' own; `share` holds what each pair counts in the sum (its weight over the tempering).
        projected: differences in coordinates of the basis, `[pairs, columns]`.
        offset: margin of the population direction, `[pairs]`.
        tolerance: gap at which a user is done.
        start: weights to begin with, `[users, columns]`; zeros where none are given.
        moments: whether to sum second moments.
        max_iterations: of Newton steps.

    Returns:
        In float64; a user without pairs gets weights 0 (the population) and gap 0.
    """
    columns, device = projected.shape[1], projected.device
    weights = torch.zeros(problems.users, columns, dtype=torch.float64, device=device)
    gap = torch.zeros(problems.users, dtype=torch.float64, device=device)
    moment = torch.zeros(columns, columns, dtype=torch.float64, device=device)
    for block in problems.blocks(projected, offset):
        begin = None if start is None else start[block.users].double()
        problem = _DualNewton(block) if block.has_few_pairs else _PrimalNewton(block)
        point, gap[block.users] = _newton(problem, begin, tolerance, max_iterations)
        weights[block.users] = point
        if moments:
            moment += point.T @ point + _Precision(block, block.margins(point)).covariance_sum()
    return Posterior(weights, gap, moment)


class _NewtonState(NamedTuple):
    """The state of Newton's method for some users, in coordinates of k numbers.

    Attributes:
        point: coordinates, `[users, k]`.
        margin: of the pairs, `[users, pairs]`.
        slope: coordinates of the gradient by the weights, `[users, k]`.
        gradient: by the coordinates, `[users, k]`.
        gap: half of the squared length of the gradient by the weights, `[users]`.
        objective: `[users]`.
    """

    point: Tensor
    margin: Tensor
    slope: Tensor
    gradient: Tensor
    gap: Tensor
    objective: Tensor


class _PrimalNewton:
    """Users' objectives as functions of their weights.

    Attributes:
        block: the users, and their pairs.
        design: margins are this times the coordinates, and the offset, `[users, pairs, k]`.
    """

    def __init__(self, block: PaddedBatch) -> None:
        self.block, self.design = block, block.projected

    def begin(self, start: Tensor | None) -> Tensor:
        """Coordinates of some weights; of zeros where none are given."""
        return torch.zeros_like(self.design[:, 0]) if start is None else start

    def weights(self, point: Tensor) -> Tensor:
        """Weights `[users, columns]` at some coordinates."""
        return point

    def along(self, step: Tensor) -> Tensor:
        """Return what a step `[users, k]` adds to the margins, `[users, pairs]`."""
        return torch.bmm(self.design, step.unsqueeze(2)).squeeze(2)

    def moved(self, state: _NewtonState, step: Tensor, length: Tensor) -> _NewtonState:
        """Return the state after steps of some length, `[users]`."""
        step = length[:, None] * step
        return self.state(state.point + step, state.margin + self.along(step))

    def state(self, point: Tensor, margin: Tensor) -> _NewtonState:
        """Return the state at coordinates and their margins."""
        slope = point + self.block.gradient(margin)
        objective = point.square().sum(1) / 2 + self.block.loss(margin)
        return _NewtonState(point, margin, slope, slope, slope.square().sum(1) / 2, objective)

    def step(self, precision: "_Precision", state: _NewtonState) -> Tensor:
        """Newton's step, `[users, k]`."""
        return -torch.cholesky_solve(state.slope[:, :, None], precision.factor).squeeze(2)


class _DualNewton(_PrimalNewton):
    """The same as functions of one number a pair, for users with fewer pairs than columns.

    The weights are `projected^T x`, as they are at the minimum and so at every step from zeros; all that is seen of the
    columns is the kernel `projected projected^T` (Rasmussen and Williams 2006, algorithm 3.1).
    """

    def __init__(self, block: PaddedBatch) -> None:
        super().__init__(block)
        self.design = block.kernel

    def begin(self, start: Tensor | None) -> Tensor:
        return torch.zeros_like(self.design[:, 0]) if start is None else -self.block.slope(self.block.margins(start))

    def weights(self, point: Tensor) -> Tensor:
        return (point[:, None, :] @ self.block.projected).squeeze(1)

    def state(self, point: Tensor, margin: Tensor) -> _NewtonState:
        slope = point + self.block.slope(margin)
        gradient = self.along(slope)
        squared_length = (point * (margin - self.block.offset)).sum(1)
        objective = squared_length / 2 + self.block.loss(margin)
        return _NewtonState(point, margin, slope, gradient, (slope * gradient).sum(1) / 2, objective)

    def step(self, precision: "_Precision", state: _NewtonState) -> Tensor:
        root = precision.root
        inner = torch.cholesky_solve((root * state.gradient)[:, :, None], precision.factor)
        return root * inner.squeeze(2) - state.slope


@torch.inference_mode()
def _newton(
    problem: _PrimalNewton, start: Tensor | None, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor]:
    """Weights of a block's users, and their gaps."""
    point = problem.begin(start)
    state = problem.state(point, problem.along(point) + problem.block.offset)
    is_small = problem.block.projected.numel() < _SMALL
    precision, before, worst = None, torch.inf, float(state.gap.max())
    for _ in range(max_iterations):
        if worst <= tolerance:
            break
        is_fresh = precision is None or is_small or worst > _CHORD * before
        if precision is None or is_fresh:
            precision = _Precision(problem.block, state.margin)
        step, length = problem.step(precision, state), torch.ones_like(state.gap)
        moved = problem.moved(state, step, length)
        while bool((too_far := _is_too_far(state, moved, step, length)).any()):
            if is_fresh:
                shorter = torch.where(length > _SHORTEST, length / 2, 0.0)
                length = torch.where(too_far, shorter, length)
            else:
                precision, is_fresh = _Precision(problem.block, state.margin), True
                step = problem.step(precision, state)
            moved = problem.moved(state, step, length)
        state, before, worst = moved, worst, float(moved.gap.max())
    return problem.weights(state.point), state.gap


def _is_too_far(state: _NewtonState, moved: _NewtonState, step: Tensor, length: Tensor) -> Tensor:
    """Return True for users whose step, of some length, does not lower the objective enough, `[users]`."""
    enough = ARMIJO * length * (state.gradient * step).sum(1) + _ROUNDING * state.objective
    return (moved.objective > state.objective + enough) & (length > 0)


class _Precision:
    """Posterior precisions `I + H` of a block's users, H the Hessian of the loss `scaled^T scaled`.

    Factored in whichever of pairs and columns are fewer: by the matrix inversion lemma, or as they are.

    Attributes:
        root: square roots of the curvatures of the pairs' losses, `[users, pairs]`.
        factor: Cholesky factors of `I + scaled scaled^T` or `I + scaled^T scaled`.
    """

    def __init__(self, block: PaddedBatch, margin: Tensor) -> None:
        self._block = block
        self.root = (block.share * pair_curvature(margin, block.temperature)).sqrt()
        if block.has_few_pairs:
            gram = block.kernel * self.root[:, :, None] * self.root[:, None, :]
        else:
            gram = self._scaled.transpose(1, 2) @ self._scaled
        # Where margins are in the thousands the identity would be lost beside the Hessian, and that may be singular.
        diagonal = gram.diagonal(dim1=1, dim2=2)
        diagonal.add_(1 + DAMPING * diagonal.sum(dim=1, keepdim=True))
        self.factor = torch.linalg.cholesky(gram)

    @property
    def _scaled(self) -> Tensor:
        return self._block.projected * self.root[:, :, None]

    def quadratic(self, vectors: Tensor) -> Tensor:
        """`x^T P^-1 x` for some vectors of each user `[users, vectors, columns]`: `[users, vectors]`."""
        squared = (self._half() @ vectors.transpose(1, 2)).square().sum(dim=1)
        return vectors.square().sum(dim=2) - squared if self._block.has_few_pairs else squared

    def covariance(self) -> Tensor:
        """Inverses `[users, columns, columns]`."""
        half = self._half()
        product = half.transpose(1, 2) @ half
        if not self._block.has_few_pairs:
            return product
        return torch.eye(half.shape[2], dtype=half.dtype, device=half.device) - product

    def covariance_sum(self) -> Tensor:
        """Sum of the inverses over the users, `[columns, columns]`."""
        half = self._half()
        rows = half.flatten(0, 1)
        product = rows.T @ rows
        identity = torch.eye(half.shape[2], dtype=half.dtype, device=half.device)
        return len(half) * identity - product if self._block.has_few_pairs else product

    def _half(self) -> Tensor:
        """Return a root of the inverses, or with few pairs of what they lack to the identity."""
        if self._block.has_few_pairs:
            return torch.linalg.solve_triangular(self.factor, self._scaled, upper=False)
        identity = torch.eye(self.factor.shape[1], dtype=self.factor.dtype, device=self.factor.device)
        return torch.linalg.solve_triangular(self.factor, identity.expand_as(self.factor), upper=False)


def gaussian_gaps(problems: UserProblems, projected: Tensor, offset: Tensor, weights: Tensor) -> Tensor:
    """Upper bounds of how far the users' objectives are above their minima at given weights, `[users]` in float64."""
    gap = weights.double().square().sum(1) / 2
    for block in problems.blocks(projected, offset):
        point = weights[block.users].double()
        gap[block.users] = _PrimalNewton(block).state(point, block.margins(point)).gap
    return gap


def gaussian_covariance(problems: UserProblems, projected: Tensor, offset: Tensor, weights: Tensor) -> Tensor:
    """Laplace posterior covariance at `weights`, `[users, columns, columns]`; I for a user without pairs."""
    columns = projected.shape[1]
    covariance = torch.eye(columns, dtype=torch.float64, device=weights.device).repeat(problems.users, 1, 1)
    for block in problems.blocks(projected, offset):
        margin = block.margins(weights[block.users].double())
        covariance[block.users] = _Precision(block, margin).covariance()
    return covariance


def gaussian_variances(
    problems: UserProblems, projected: Tensor, offset: Tensor, weights: Tensor, targets: Tensor, user: Tensor
) -> Tensor:
    """Posterior variances of margins, `[targets]`, in float64; no covariance is formed.

    Args:
        problems: those that the weights were learned from.
        projected: those differences in coordinates of the basis, `[pairs, columns]`.
        offset: their margin of the population direction, `[pairs]`.
        weights: modes, `[users, columns]`.
        targets: differences whose margins are asked for, in coordinates of the basis, `[targets, columns]`.
        user: of each of them, `[targets]`.
    """
    variance = targets.double().square().sum(dim=1)
    order = torch.argsort(user, stable=True)
    count = torch.bincount(user, minlength=problems.users)
    first = count.cumsum(0) - count
    for block in problems.blocks(projected, offset):
        wanted = torch.nonzero(count[block.users] > 0).flatten()
        if len(wanted) == 0:
            continue
        for some in wanted.split(max(BLOCK_PAIRS // int(count[block.users].max()), 1)):
            part = block.only(some)
            position = torch.arange(int(count[part.users].max()), device=user.device)
            real = position < count[part.users][:, None]
            rows = order[torch.where(real, first[part.users][:, None] + position, first[part.users][:, None])]
            precision = _Precision(part, part.margins(weights[part.users].double()))
            variance[rows[real]] = precision.quadratic(targets[rows].double())[real]
    return variance
