"""Limited-memory BFGS as ask and tell: it asks for a point, is told value and gradient there, and asks for the next.

Who holds the data evaluates the points of several minimizations in one pass.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

ARMIJO = 1e-4  # sufficient decrease (Nocedal and Wright 2006, section 3.1)
_MAX_BACKTRACKS = 40  # step lengths that are tried in one direction
_SHRINK = (0.1, 0.5)  # least and largest factor between two step lengths
_MIN_CURVATURE = 1e-10  # step . change over |change|^2, below which a pair would spoil the Hessian estimate
_STALLED_TOLERANCE = 10.0  # times the tolerance: a stalled minimization within it counts as converged


@dataclass(frozen=True)
class OptimizeResult:
    """The point at which a minimization stopped.

    Attributes:
        point: in the shape of the start.
        value: of the function there.
        optimality: `|gradient| |point| / value`, relative change of the value for a relative change of the point.
        converged: True if the stopping rule was met.
        history: value after each iteration, the start first.
    """

    point: Tensor
    value: float
    optimality: float
    converged: bool
    history: list[float] = field(default_factory=list)


class Lbfgs:
    """A minimization by limited-memory BFGS (Nocedal and Wright 2006, algorithm 7.5) with backtracking.

    It stops when `|gradient| |point| / value` is at most `tolerance`. It also stops when no step lowers the value any
    more (the limit of the dtype), which counts as converged only within ten times the tolerance.

        search = Lbfgs(start, tolerance=1e-3, max_iterations=100)
        while not search.done:
            search.tell(*value_and_gradient(search.ask()))
        search.result()

    Attributes:
        done: True if there is nothing more to ask.
    """

    def __init__(self, start: Tensor, tolerance: float, max_iterations: int, memory: int = 10) -> None:
        """Begin at `start`; `memory` pairs of steps and gradient changes are kept."""
        self.done = False
        self._tolerance, self._max_iterations, self._memory = tolerance, max_iterations, memory
        self._point = start
        self._value: Tensor | None = None
        self._gradient = torch.zeros_like(start)
        self._steps: list[Tensor] = []
        self._changes: list[Tensor] = []
        self._history: list[float] = []
        self._optimality, self._converged = float("inf"), False
        self._direction = torch.zeros_like(start)
        self._slope, self._length, self._backtracks = 0.0, 1.0, 0

    def ask(self) -> Tensor:
        """Return the point at which value and gradient are wanted next."""
        return self._point if self._value is None else self._point + self._length * self._direction

    def tell(self, value: Tensor, gradient: Tensor) -> None:
        """Take the value (a scalar) and the gradient at the point that was asked for."""
        if self._value is None:
            self._accept(self._point, value, gradient)
            return
        rise = float(value - self._value)
        if rise <= ARMIJO * self._length * self._slope:
            self._remember(gradient)
            self._accept(self._point + self._length * self._direction, value, gradient)
        else:
            self._backtrack(rise)

    def result(self) -> OptimizeResult:
        """Return where it stands; the minimum if it is done."""
        assert self._value is not None  # noqa: S101 - told before
        return OptimizeResult(self._point, float(self._value), self._optimality, self._converged, list(self._history))

    def _accept(self, point: Tensor, value: Tensor, gradient: Tensor) -> None:
        self._point, self._value, self._gradient = point, value, gradient
        self._history.append(float(value))
        self._optimality = relative_gradient(point, value, gradient)
        self._converged = self._optimality <= self._tolerance
        self.done = self._converged or len(self._history) > self._max_iterations
        if not self.done:
            self._begin_search()

    def _begin_search(self) -> None:
        self._direction = _two_loop(self._gradient, self._steps, self._changes)
        self._slope = float((self._direction * self._gradient).sum())
        self._length, self._backtracks = 1.0, 0

    def _remember(self, gradient: Tensor) -> None:
        """Keep the step that is taken and the change of the gradient, if they say something of the curvature."""
        step, change = self._length * self._direction, gradient - self._gradient
        if float((step * change).sum()) > _MIN_CURVATURE * float(change.square().sum()):
            self._steps.append(step)
            self._changes.append(change)
        del self._steps[: -self._memory], self._changes[: -self._memory]

    def _backtrack(self, rise: float) -> None:
        """Shorten the step; without any that lowers the value begin again along the gradient, or stop."""
        self._backtracks += 1
        if self._backtracks < _MAX_BACKTRACKS:
            # The minimum of the parabola through both values and the slope.
            curvature = rise - self._length * self._slope
            best = -self._slope * self._length / (2 * curvature) if curvature > 0 else _SHRINK[0]
            self._length *= min(max(best, _SHRINK[0]), _SHRINK[1])
        elif self._steps:
            self._steps.clear()
            self._changes.clear()
            self._begin_search()
        else:
            self._converged = self._optimality <= _STALLED_TOLERANCE * self._tolerance
            self.done = True


def relative_gradient(point: Tensor, value: Tensor, gradient: Tensor) -> float:
    """Return `|gradient| |point| / value`; infinite at zero, where it says nothing, unless the gradient is zero too."""
    slope, size = float(gradient.norm()), float(point.norm())
    if slope == 0 or size == 0:
        return 0.0 if slope == 0 else float("inf")
    return slope * size / max(abs(float(value)), torch.finfo(torch.float64).tiny)


def _two_loop(gradient: Tensor, steps: list[Tensor], changes: list[Tensor]) -> Tensor:
    """Return minus the inverse Hessian estimate times the gradient."""
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
