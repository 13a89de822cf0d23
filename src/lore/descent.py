"""Minimizing a smooth function of the basis: limited-memory BFGS that asks for values instead of computing them.

`descend` is a generator: it yields the point at which it wants value and gradient, is sent them, and returns where it
stopped. So whoever holds the data answers several descents with one pass over it.
"""

from collections.abc import Generator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lore.objective import ValueAndGradient

_ARMIJO = 1e-4  # sufficient decrease (Nocedal and Wright 2006, section 3.1)


@dataclass(frozen=True)
class Minimum:
    """Where a descent stopped.

    Attributes:
        point: in the shape of the start.
        value: of the function there.
        gap: `|gradient| |point| / value`, relative change of the value for a relative change of the point.
        converged: whether the stopping rule was met.
        history: value after each iteration, the start first.
    """

    point: Tensor
    value: float
    gap: float
    converged: bool
    history: list[float] = field(default_factory=list)


Descent = Generator[Tensor, ValueAndGradient, Minimum]


def descend(start: Tensor, tolerance: float, max_iterations: int, memory: int = 10) -> Descent:
    """Minimize a smooth function by limited-memory BFGS (Nocedal and Wright 2006, algorithm 7.5) with backtracking.

    Stops when the gap `|gradient| |point| / value` is at most `tolerance`, or when no step along the gradient lowers
    the value any more (the limit of the dtype), which counts as converged only within ten times the tolerance.

    Args:
        start: where to begin.
        tolerance: of the gap; positive.
        max_iterations: steps at most.
        memory: pairs of steps and gradient changes that are kept.
    """
    point = start
    value, gradient = yield start
    history, steps, changes = [float(value)], list[Tensor](), list[Tensor]()
    gap = _relative_gradient(point, value, gradient)
    converged = gap <= tolerance
    while not converged and len(history) <= max_iterations:
        step = _two_loop(gradient, steps, changes)
        moved = yield from _backtrack(point, value, step, float((step * gradient).sum()))
        if moved is None and steps:
            steps.clear()
            changes.clear()
            continue
        if moved is None:
            converged = gap <= 10 * tolerance
            break
        length, (value, fresh) = moved
        steps.append(length * step)
        changes.append(fresh - gradient)
        if float((steps[-1] * changes[-1]).sum()) <= 1e-10 * float(changes[-1].square().sum()):
            steps.pop()
            changes.pop()
        del steps[:-memory], changes[:-memory]
        point, gradient = point + length * step, fresh
        history.append(float(value))
        gap = _relative_gradient(point, value, gradient)
        converged = gap <= tolerance
    return Minimum(point, float(value), gap, converged, history)


def _relative_gradient(point: Tensor, value: Tensor, gradient: Tensor) -> float:
    """`|gradient| |point| / value`; infinite at zero, where it would say nothing, unless the gradient is zero too."""
    slope, size = float(gradient.norm()), float(point.norm())
    if slope == 0 or size == 0:
        return 0.0 if slope == 0 else float("inf")
    return slope * size / max(abs(float(value)), torch.finfo(torch.float64).tiny)


def _two_loop(gradient: Tensor, steps: list[Tensor], changes: list[Tensor]) -> Tensor:
    """Minus the inverse Hessian estimate times the gradient."""
    direction = -gradient
    applied = []
    for step, change in zip(reversed(steps), reversed(changes), strict=True):
        share = (step * direction).sum() / (step * change).sum()
        direction = direction - share * change
        applied.append(share)
    if steps:
        direction = direction * ((steps[-1] * changes[-1]).sum() / changes[-1].square().sum())
    for step, change, share in zip(steps, changes, reversed(applied), strict=True):
        direction = direction + (share - (change * direction).sum() / (step * change).sum()) * step
    return direction


def _backtrack(
    point: Tensor, value: Tensor, step: Tensor, slope: float
) -> Generator[Tensor, ValueAndGradient, tuple[float, ValueAndGradient] | None]:
    """A step length with sufficient decrease, and the function there; None if there is none."""
    length = 1.0
    for _ in range(40):
        tried = yield point + length * step
        rise = float(tried.value - value)
        if rise <= _ARMIJO * length * slope:
            return length, tried
        # The minimum of the parabola through both values and the slope, kept within a tenth and a half.
        curvature = rise - length * slope
        best = -slope * length / (2 * curvature) if curvature > 0 else 0.1
        length *= min(max(best, 0.1), 0.5)
    return None
