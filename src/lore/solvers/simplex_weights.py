"""Users' weights on the simplex, basis fixed: a convex problem for each user, by an interior-point method."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lore.solvers.lbfgs import ARMIJO
from lore.solvers.user_problems import PaddedBatch, UserProblems

_INSIDE = 1e-3  # share of the uniform weights that is mixed into a start

_INTERIOR_STEP = 0.995  # share of the way to the boundary that a step may go


@dataclass(frozen=True)
class WeightsSolution:
    """Users' weights `[users, columns]` and `gap` `[users]`: no user's objective is further above its minimum."""

    weights: Tensor
    gap: Tensor


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
    problems: UserProblems,
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
        problems: the users' own.
        projected: differences in coordinates of the basis, `[pairs, rank]`.
        prior: what draws the weights together.
        tolerance: gap at which a user is done.
        start: weights to begin with, `[users, rank]`; the population where none is given.
        max_iterations: of Newton steps.

    Returns:
        Weights in float64; a user without pairs gets the population and gap 0.
    """
    population = prior.population.double()
    weights = population.expand(problems.users, -1).clone()
    gap = torch.zeros(problems.users, dtype=torch.float64, device=weights.device)
    for block in problems.blocks(projected, None):
        begin = weights[block.users] if start is None else start[block.users].double()
        strength = prior.strength.double()[block.users, None] * population
        weights[block.users], gap[block.users] = _simplex_block(block, begin, strength, tolerance, max_iterations)
    return WeightsSolution(weights, gap)


def _simplex_block(
    block: PaddedBatch, start: Tensor, prior: Tensor, tolerance: float, max_iterations: int
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
    block: PaddedBatch, weights: Tensor, dual: Tensor, prior: Tensor, gradient: Tensor, margin: Tensor, final: float
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
        return merit(weights + length * step) > before + ARMIJO * length[:, 0] * slope + 1e-13 * before.abs()

    while bool((too_far := short()).any()):
        length = torch.where(too_far[:, None], length / 2, length)
    moved = weights + length * step
    return moved / moved.sum(1, keepdim=True), dual + _longest(dual, dual_step) * dual_step


def _longest(point: Tensor, step: Tensor) -> Tensor:
    """Return the longest step up to 1 that keeps every coordinate positive, `[users, 1]`."""
    shrink = (-step / point).max(dim=1, keepdim=True).values
    return (_INTERIOR_STEP / shrink.clamp(min=_INTERIOR_STEP)).clamp(max=1.0)
