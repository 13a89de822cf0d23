"""Solvers, their stopping rules and their certificates.

    simplex_weights    users' weights on the simplex, basis fixed: convex, primal-dual interior point
    gaussian_weights   users' weights under a standard normal prior, basis fixed: strictly convex, Newton

Both solve all users at once, in float64, on the projected pairs (a few numbers each), and return for
every user an upper bound of how far the objective is above its minimum.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from lore.objective import pair_curvature, pair_loss, pair_slope

_BLOCK_PAIRS = 65_536  # padded pairs in a block: 4 MB for each eight columns
_INSIDE = 1e-3  # share of the uniform weights that is mixed into a start
_INTERIOR_STEP = 0.995  # share of the way to the boundary that a step may go
_SMALL = 100_000  # numbers of a block whose Hessian costs little
_CHORD = 0.01  # a Newton step that shrinks the gap to less is followed by one with the same Hessian
_DAMPING = 1e-13  # of the Hessian's trace, added to its diagonal
_ARMIJO = 1e-4  # sufficient decrease (Nocedal and Wright 2006, section 3.1)


@dataclass(frozen=True)
class WeightsSolution:
    """Users' weights `[users, columns]` and `gap` `[users]`: no user's objective is further above its minimum."""

    weights: Tensor
    gap: Tensor


@dataclass(frozen=True)
class UserChoices:
    """Who chose, and what each choice counts: all of a users' problem that does not depend on the basis.

    Attributes:
        user: row of the weights, `[pairs]`.
        label: probability that chosen is preferred, `[pairs]`.
        share: what each pair counts in its user's loss, `[pairs]`.
        users: number of users, with or without pairs.
        temperature: of the link.
    """

    user: Tensor
    label: Tensor
    share: Tensor
    users: int
    temperature: float

    @cached_property
    def _layout(self) -> list["_Layout"]:
        return list(_layouts(self))

    def blocks(self, projected: Tensor, offset: Tensor | None) -> Iterator["_Block"]:
        """The users in blocks, with their pairs in coordinates of a basis.

        Args:
            projected: differences in coordinates of the basis, `[pairs, columns]`.
            offset: margin that does not depend on the weights, `[pairs]` (the population's, for `gaussian`).
        """
        for layout in self._layout:
            flat = layout.pair.flatten()
            yield _Block(
                users=layout.users,
                projected=projected.index_select(0, flat).double().view(*layout.pair.shape, projected.shape[1]),
                offset=torch.zeros_like(layout.share) if offset is None else offset[layout.pair].double(),
                label=layout.label,
                share=layout.share,
                temperature=self.temperature,
            )


@dataclass(frozen=True)
class _Layout:
    """Users with about equally many pairs, padded to `[users of the block, pairs of a user]`; padding has share 0."""

    users: Tensor
    pair: Tensor
    label: Tensor
    share: Tensor


def _layouts(choices: UserChoices) -> Iterator[_Layout]:
    """Blocks of users of similar size; users without pairs are left out."""
    order = torch.argsort(choices.user, stable=True)
    pairs = torch.bincount(choices.user, minlength=choices.users)
    first = pairs.cumsum(0) - pairs
    ranked = torch.argsort(pairs, stable=True)
    ranked = ranked[pairs[ranked] > 0]
    sizes = pairs[ranked].tolist()
    start = 0
    while start < len(sizes):
        stop = start + 1
        # At most twice the smallest user of the block, so that at most half of a block is padding.
        while (
            stop < len(sizes) and sizes[stop] <= 2 * sizes[start] and (stop + 1 - start) * sizes[stop] <= _BLOCK_PAIRS
        ):
            stop += 1
        users = ranked[start:stop]
        position = torch.arange(sizes[stop - 1], device=order.device)
        real = position < pairs[users][:, None]
        pair = order[torch.where(real, first[users][:, None] + position, first[users][:, None])]
        share = torch.where(real, choices.share[pair].double(), 0.0)
        yield _Layout(users, pair, choices.label[pair].double(), share)
        start = stop


@dataclass(frozen=True)
class _Block:
    """The problems of some users in float64: arrays over `[users of the block, pairs of a user]`."""

    users: Tensor
    projected: Tensor
    offset: Tensor
    label: Tensor
    share: Tensor
    temperature: float

    @property
    def has_few_pairs(self) -> bool:
        """Whether users have fewer pairs than columns."""
        return self.projected.shape[1] < self.projected.shape[2]

    @cached_property
    def kernel(self) -> Tensor:
        """Inner products of the pairs, `[users, pairs, pairs]`."""
        return self.projected @ self.projected.transpose(1, 2)

    def margins(self, weights: Tensor) -> Tensor:
        return (self.projected @ weights[:, :, None]).squeeze(2) + self.offset

    def loss(self, margin: Tensor) -> Tensor:
        return (self.share * pair_loss(margin, self.label, self.temperature)).sum(dim=1)

    def slope(self, margin: Tensor) -> Tensor:
        return self.share * pair_slope(margin, self.label, self.temperature)

    def gradient(self, margin: Tensor) -> Tensor:
        return (self.slope(margin)[:, None, :] @ self.projected).squeeze(1)

    def hessian(self, margin: Tensor) -> Tensor:
        curvature = self.share * pair_curvature(margin, self.temperature)
        return (self.projected * curvature[:, :, None]).transpose(1, 2) @ self.projected

    def solve(self, margin: Tensor, diagonal: Tensor, right: Tensor) -> Tensor:
        """Solutions `[users, columns, k]` of (Hessian of the loss + diagonal) x = right, for positive diagonals.

        With fewer pairs than columns by the matrix inversion lemma, in a system of the size of the pairs.
        """
        _, pairs, columns = self.projected.shape
        curvature = self.share * pair_curvature(margin, self.temperature)
        scaled = self.projected * curvature.sqrt()[:, :, None]
        # Where margins are in the thousands the diagonal would be lost beside the Hessian, and that may be singular.
        diagonal = diagonal + _DAMPING * scaled.square().sum(dim=(1, 2))[:, None]
        if pairs >= columns:
            return torch.linalg.solve(scaled.transpose(1, 2) @ scaled + torch.diag_embed(diagonal), right)
        across = (scaled / diagonal[:, None, :]).transpose(1, 2)
        inner = scaled @ across + torch.eye(pairs, dtype=diagonal.dtype, device=diagonal.device)
        free = right / diagonal[:, :, None]
        return free - across @ torch.linalg.solve(inner, scaled @ free)

    def only(self, kept: Tensor) -> "_Block":
        """The users in `kept`, positions in this block."""
        return _Block(
            users=self.users[kept],
            projected=self.projected[kept],
            offset=self.offset[kept],
            label=self.label[kept],
            share=self.share[kept],
            temperature=self.temperature,
        )


# --- the simplex family -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SimplexPrior:
    """Shrinkage of users' weights: adds `strength` times `KL(population || w)` to a user's loss.

    Attributes:
        population: `[rank]`, on the simplex.
        strength: one number a user, `[users]`, not negative.
    """

    population: Tensor
    strength: Tensor


def simplex_weights(
    choices: UserChoices,
    projected: Tensor,
    prior: SimplexPrior,
    tolerance: float,
    start: Tensor | None = None,
    max_iterations: int = 60,
) -> WeightsSolution:
    """Minimize, for every user, the loss plus the prior's term over the simplex.

    A primal-dual interior-point method (Nocedal and Wright 2006, chapter 19), all users of a block at once. The gap
    is that of Frank and Wolfe, `max over k of gradient . (w - e_k)`, an upper bound for any convex objective
    (Jaggi 2013, section 2).

    Args:
        choices: who chose.
        projected: differences in coordinates of the basis, `[pairs, rank]`.
        prior: what draws the weights together.
        tolerance: gap at which a user is done.
        start: weights to begin with, `[users, rank]`; the population where none is given.
        max_iterations: of Newton steps.

    Returns:
        Weights in float64; a user without pairs gets the population and gap 0.
    """
    population = prior.population.double()
    weights = population.expand(choices.users, -1).clone()
    gap = torch.zeros(choices.users, dtype=torch.float64, device=weights.device)
    for block in choices.blocks(projected, None):
        begin = weights[block.users] if start is None else start[block.users].double()
        strength = prior.strength.double()[block.users, None] * population
        weights[block.users], gap[block.users] = _simplex_block(block, begin, strength, tolerance, max_iterations)
    return WeightsSolution(weights, gap)


def _simplex_block(
    block: _Block, start: Tensor, prior: Tensor, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor]:
    """Weights and gaps of one block; `prior` `[users, rank]` holds strength times population."""
    rank = start.shape[1]
    final = tolerance / (2 * rank)
    # Start inside, with multipliers that explain the gradient there: exact when the start is the solution.
    weights = start * (1 - _INSIDE) + _INSIDE / rank
    gradient = block.gradient(block.margins(weights)) - prior / weights
    dual = gradient - gradient.min(1, keepdim=True).values + final / weights
    best, best_gap = weights.clone(), torch.full_like(weights[:, 0], torch.inf)
    active = torch.arange(len(best), device=best.device)
    for _ in range(max_iterations):
        margin = block.margins(weights)
        gradient = block.gradient(margin) - prior / weights
        gap = (gradient * weights).sum(1) - gradient.min(1).values
        better = gap < best_gap[active]
        best[active[better]], best_gap[active[better]] = weights[better], gap[better]
        left = torch.nonzero(gap > tolerance).flatten()
        if len(left) == 0:
            break
        if len(left) < len(active):
            block, active, prior = block.only(left), active[left], prior[left]
            weights, dual, margin, gradient = weights[left], dual[left], margin[left], gradient[left]
        weights, dual = _interior_step(block, weights, dual, prior, gradient, margin, final)
    return best, best_gap


def _interior_step(
    block: _Block, weights: Tensor, dual: Tensor, prior: Tensor, gradient: Tensor, margin: Tensor, final: float
) -> tuple[Tensor, Tensor]:
    """One damped Newton step on the perturbed optimality conditions, toward a tenth of the complementarity."""
    barrier = (0.1 * (weights * dual).mean(1, keepdim=True)).clamp(min=final)
    residual = barrier / weights - gradient
    right = torch.stack([residual, torch.ones_like(residual)], dim=2)
    free, normal = block.solve(margin, prior / weights**2 + dual / weights, right).unbind(dim=2)
    step = free - normal * (free.sum(1) / normal.sum(1))[:, None]
    dual_step = barrier / weights - dual - dual / weights * step
    length = _longest(weights, step)

    def merit(point: Tensor) -> Tensor:
        return block.loss(block.margins(point)) - ((prior + barrier) * point.log()).sum(1)

    before, slope = merit(weights), -(residual * step).sum(1)

    def short() -> Tensor:
        return merit(weights + length * step) > before + _ARMIJO * length[:, 0] * slope + 1e-13 * before.abs()

    while bool((too_far := short()).any()):
        length = torch.where(too_far[:, None], length / 2, length)
    moved = weights + length * step
    return moved / moved.sum(1, keepdim=True), dual + _longest(dual, dual_step) * dual_step


def _longest(point: Tensor, step: Tensor) -> Tensor:
    """The longest step up to 1 that keeps every coordinate positive, `[users, 1]`."""
    shrink = (-step / point).max(dim=1, keepdim=True).values
    return (_INTERIOR_STEP / shrink.clamp(min=_INTERIOR_STEP)).clamp(max=1.0)


# --- the gaussian family ------------------------------------------------------------------------------------------


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
    choices: UserChoices,
    projected: Tensor,
    offset: Tensor,
    tolerance: float,
    *,
    start: Tensor | None = None,
    moments: bool = False,
    max_iterations: int = 50,
) -> Posterior:
    """Minimize, for every user, `|w|^2 / 2` plus the summed loss: the posterior mode under w ~ N(0, I).

    Newton's method, all users of a block at once. As the objective is 1-strongly convex, `|gradient|^2 / 2` bounds how
    far it is above its minimum; steps are shortened until that falls (Nocedal and Wright 2006, section 11.2).

    Args:
        choices: who chose; `share` holds what each pair counts in the sum (its weight over the tempering).
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
    weights = torch.zeros(choices.users, columns, dtype=torch.float64, device=device)
    gap = torch.zeros(choices.users, dtype=torch.float64, device=device)
    moment = torch.zeros(columns, columns, dtype=torch.float64, device=device)
    for block in choices.blocks(projected, offset):
        begin = None if start is None else start[block.users].double()
        problem = _InPairs(block) if block.has_few_pairs else _InColumns(block)
        point, gap[block.users] = _newton(problem, begin, tolerance, max_iterations)
        weights[block.users] = point
        if moments:
            moment += point.T @ point + _Precision(block, block.margins(point)).covariance_sum()
    return Posterior(weights, gap, moment)


class _Place(NamedTuple):
    """Where some users are, in coordinates of k numbers.

    Attributes:
        point: coordinates, `[users, k]`.
        margin: of the pairs, `[users, pairs]`.
        slope: coordinates of the gradient by the weights, `[users, k]`.
        gradient: by the coordinates, `[users, k]`.
        gap: half of the squared length of the gradient by the weights, `[users]`.
    """

    point: Tensor
    margin: Tensor
    slope: Tensor
    gradient: Tensor
    gap: Tensor


class _InColumns:
    """Users' objectives as functions of their weights.

    Attributes:
        block: the users, and their pairs.
        design: margins are this times the coordinates, and the offset, `[users, pairs, k]`.
    """

    def __init__(self, block: _Block) -> None:
        self.block, self.design = block, block.projected

    def begin(self, start: Tensor | None) -> Tensor:
        """Coordinates of some weights; of zeros where none are given."""
        return torch.zeros_like(self.design[:, 0]) if start is None else start

    def weights(self, point: Tensor) -> Tensor:
        """Weights `[users, columns]` at some coordinates."""
        return point

    def along(self, step: Tensor) -> Tensor:
        """What a step `[users, k]` adds to the margins, `[users, pairs]`."""
        return torch.bmm(self.design, step.unsqueeze(2)).squeeze(2)

    def moved(self, place: _Place, step: Tensor, length: Tensor) -> _Place:
        """What is there after steps of some length, `[users]`."""
        step = length[:, None] * step
        return self.place(place.point + step, place.margin + self.along(step))

    def place(self, point: Tensor, margin: Tensor) -> _Place:
        """All that is there at some coordinates and their margins."""
        slope = point + self.block.gradient(margin)
        return _Place(point, margin, slope, slope, slope.square().sum(1) / 2)

    def step(self, precision: "_Precision", place: _Place) -> Tensor:
        """Newton's step, `[users, k]`."""
        return -torch.cholesky_solve(place.slope[:, :, None], precision.factor).squeeze(2)


class _InPairs(_InColumns):
    """The same as functions of one number a pair, for users with fewer pairs than columns.

    The weights are `projected^T x`, as they are at the minimum and so at every step from zeros; all that is seen of the
    columns is the kernel `projected projected^T` (Rasmussen and Williams 2006, algorithm 3.1).
    """

    def __init__(self, block: _Block) -> None:
        super().__init__(block)
        self.design = block.kernel

    def begin(self, start: Tensor | None) -> Tensor:
        return torch.zeros_like(self.design[:, 0]) if start is None else -self.block.slope(self.block.margins(start))

    def weights(self, point: Tensor) -> Tensor:
        return (point[:, None, :] @ self.block.projected).squeeze(1)

    def place(self, point: Tensor, margin: Tensor) -> _Place:
        slope = point + self.block.slope(margin)
        gradient = self.along(slope)
        return _Place(point, margin, slope, gradient, (slope * gradient).sum(1) / 2)

    def step(self, precision: "_Precision", place: _Place) -> Tensor:
        root = precision.root
        inner = torch.cholesky_solve((root * place.gradient)[:, :, None], precision.factor)
        return root * inner.squeeze(2) - place.slope


@torch.inference_mode()
def _newton(problem: _InColumns, start: Tensor | None, tolerance: float, max_iterations: int) -> tuple[Tensor, Tensor]:
    """Weights of a block's users, and their gaps."""
    point = problem.begin(start)
    place = problem.place(point, problem.along(point) + problem.block.offset)
    is_small = problem.block.projected.numel() < _SMALL
    precision, before, worst = None, torch.inf, float(place.gap.max())
    for _ in range(max_iterations):
        if worst <= tolerance:
            break
        is_fresh = precision is None or is_small or worst > _CHORD * before
        if precision is None or is_fresh:
            precision = _Precision(problem.block, place.margin)
        step, length = problem.step(precision, place), torch.ones_like(place.gap)
        found = problem.moved(place, step, length)
        while bool((too_far := found.gap > _enough(place.gap, length, tolerance)).any()):
            if is_fresh:
                length = torch.where(too_far, length / 2, length)
            else:
                precision, is_fresh = _Precision(problem.block, place.margin), True
                step = problem.step(precision, place)
            found = problem.moved(place, step, length)
        place, before, worst = found, worst, float(found.gap.max())
    return problem.weights(place.point), place.gap


def _enough(gap: Tensor, length: Tensor, tolerance: float) -> Tensor:
    """The gaps that steps of some length have to reach: lower ones, or small ones."""
    return (gap * (1 - 2 * _ARMIJO * length)).clamp(min=tolerance)


class _Precision:
    """Posterior precisions `I + H` of a block's users, H the Hessian of the loss `scaled^T scaled`.

    Factored in whichever of pairs and columns are fewer: by the matrix inversion lemma, or as they are.

    Attributes:
        root: square roots of the curvatures of the pairs' losses, `[users, pairs]`.
        factor: Cholesky factors of `I + scaled scaled^T` or `I + scaled^T scaled`.
    """

    def __init__(self, block: _Block, margin: Tensor) -> None:
        self._block = block
        self.root = (block.share * pair_curvature(margin, block.temperature)).sqrt()
        if block.has_few_pairs:
            gram = block.kernel * self.root[:, :, None] * self.root[:, None, :]
        else:
            gram = self._scaled.transpose(1, 2) @ self._scaled
        # Where margins are in the thousands the identity would be lost beside the Hessian, and that may be singular.
        diagonal = gram.diagonal(dim1=1, dim2=2)
        diagonal.add_(1 + _DAMPING * diagonal.sum(dim=1, keepdim=True))
        self.factor = torch.linalg.cholesky(gram)

    @property
    def _scaled(self) -> Tensor:
        return self._block.projected * self.root[:, :, None]

    def quadratic(self, vectors: Tensor) -> Tensor:
        """`x^T P^-1 x` for some vectors of each user `[users, vectors, columns]`: `[users, vectors]`."""
        found = (self._half() @ vectors.transpose(1, 2)).square().sum(dim=1)
        return vectors.square().sum(dim=2) - found if self._block.has_few_pairs else found

    def covariance(self) -> Tensor:
        """Inverses `[users, columns, columns]`."""
        half = self._half()
        found = half.transpose(1, 2) @ half
        if not self._block.has_few_pairs:
            return found
        return torch.eye(half.shape[2], dtype=half.dtype, device=half.device) - found

    def covariance_sum(self) -> Tensor:
        """Sum of the inverses over the users, `[columns, columns]`."""
        half = self._half()
        rows = half.flatten(0, 1)
        found = rows.T @ rows
        identity = torch.eye(half.shape[2], dtype=half.dtype, device=half.device)
        return len(half) * identity - found if self._block.has_few_pairs else found

    def _half(self) -> Tensor:
        """What the inverses, or what they lack to the identity, are the squares of."""
        if self._block.has_few_pairs:
            return torch.linalg.solve_triangular(self.factor, self._scaled, upper=False)
        identity = torch.eye(self.factor.shape[1], dtype=self.factor.dtype, device=self.factor.device)
        return torch.linalg.solve_triangular(self.factor, identity.expand_as(self.factor), upper=False)


def gaussian_covariance(choices: UserChoices, projected: Tensor, offset: Tensor, weights: Tensor) -> Tensor:
    """Laplace posterior covariance at `weights`, `[users, columns, columns]`; I for a user without pairs."""
    columns = projected.shape[1]
    covariance = torch.eye(columns, dtype=torch.float64, device=weights.device).repeat(choices.users, 1, 1)
    for block in choices.blocks(projected, offset):
        margin = block.margins(weights[block.users].double())
        covariance[block.users] = _Precision(block, margin).covariance()
    return covariance


def gaussian_variances(
    choices: UserChoices, projected: Tensor, offset: Tensor, weights: Tensor, asked: Tensor, user: Tensor
) -> Tensor:
    """Posterior variances of margins, `[asked]`, in float64; no covariance is formed.

    Args:
        choices: what people were learned from.
        projected: those differences in coordinates of the basis, `[pairs, columns]`.
        offset: their margin of the population direction, `[pairs]`.
        weights: modes, `[users, columns]`.
        asked: differences whose margins are asked for, in coordinates of the basis, `[asked, columns]`.
        user: of each of them, `[asked]`.
    """
    variance = asked.double().square().sum(dim=1)
    order = torch.argsort(user, stable=True)
    count = torch.bincount(user, minlength=choices.users)
    first = count.cumsum(0) - count
    for block in choices.blocks(projected, offset):
        wanted = torch.nonzero(count[block.users] > 0).flatten()
        if len(wanted) == 0:
            continue
        for some in wanted.split(max(_BLOCK_PAIRS // int(count[block.users].max()), 1)):
            part = block.only(some)
            position = torch.arange(int(count[part.users].max()), device=user.device)
            real = position < count[part.users][:, None]
            at = order[torch.where(real, first[part.users][:, None] + position, first[part.users][:, None])]
            precision = _Precision(part, part.margins(weights[part.users].double()))
            variance[at[real]] = precision.quadratic(asked[at].double())[real]
    return variance
