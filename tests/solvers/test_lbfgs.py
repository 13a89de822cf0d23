from collections.abc import Callable

import torch

from lore.solvers.lbfgs import Lbfgs, OptimizeResult
from lore.solvers.objective import ValueAndGradient


def minimize(
    function: Callable[[torch.Tensor], ValueAndGradient], start: torch.Tensor, tolerance: float, max_iterations: int
) -> OptimizeResult:
    """A minimization of a function at hand."""
    search = Lbfgs(start, tolerance, max_iterations)
    while not search.done:
        search.tell(*function(search.ask()))
    return search.result()


def test_minimize_finds_the_minimum_of_a_quadratic() -> None:
    scales = torch.tensor([1.0, 10.0, 1000.0], dtype=torch.float64)
    target = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)

    def quadratic(x: torch.Tensor) -> ValueAndGradient:
        return ValueAndGradient(1 + (scales * (x - target) ** 2).sum() / 2, scales * (x - target))

    found = minimize(quadratic, torch.zeros(3, dtype=torch.float64), 1e-10, 200)
    assert found.converged
    torch.testing.assert_close(found.point, target)
    assert all(later <= earlier for earlier, later in zip(found.history, found.history[1:], strict=False))
    assert not minimize(quadratic, torch.zeros(3, dtype=torch.float64), 1e-10, 2).converged


def test_minimize_stops_at_once_where_the_gradient_is_zero() -> None:
    found = minimize(lambda x: ValueAndGradient(x.square().sum() + 1, 2 * x), torch.zeros(2).double(), 1e-6, 10)
    assert found.converged
    assert len(found.history) == 1


def test_minimize_says_so_when_no_step_helps() -> None:
    # The gradient points the wrong way: no step along it lowers the value.
    wrong = minimize(lambda x: ValueAndGradient(x.square().sum() + 1, -2 * x), torch.ones(2).double(), 1e-6, 10)
    assert not wrong.converged


def test_minimize_forgets_curvature_that_misleads() -> None:
    # A kink makes remembered curvature wrong; the method starts over from the gradient and gets to the corner.
    def kinked(x: torch.Tensor) -> ValueAndGradient:
        return ValueAndGradient(x.abs().sum() + 0.01 * x.square().sum() + 1e-3, x.sign() + 0.02 * x)

    found = minimize(kinked, torch.tensor([3.0, -0.7], dtype=torch.float64), 1e-9, 100)
    assert found.value < 0.5


def test_a_search_that_finds_no_lower_value_begins_again_along_the_gradient() -> None:
    search = Lbfgs(torch.tensor([2.0, 1.0], dtype=torch.float64), tolerance=1e-9, max_iterations=100)
    scales = torch.tensor([1.0, 5.0], dtype=torch.float64)
    for _ in range(4):  # some curvature is remembered
        point = search.ask()
        search.tell(1 + (scales * point.square()).sum() / 2, scales * point)
    here = search.result().point
    directions = set()
    while not search.done:
        offset = search.ask() - here
        if offset.norm() > 1e-8:  # shorter ones are lost in the rounding of the point
            directions.add(tuple((offset / offset.norm()).round(decimals=4).tolist()))
        search.tell(torch.tensor(1e6, dtype=torch.float64), scales * here)
    downhill = -scales * here / (scales * here).norm()
    assert len(directions) == 2  # by the remembered curvature, then without it
    assert tuple(downhill.round(decimals=4).tolist()) in directions
    torch.testing.assert_close(search.result().point, here)
