import pytest
import torch

from lore.charts import Chart, Polar, Spectrum, Straight, spectrum


def rows_of(dim: int, rows: int = 600) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    decay = 1 / (1 + torch.arange(dim, dtype=torch.float64))
    return torch.randn(rows, dim, generator=rng, dtype=torch.float64) * decay


def charts(dim: int = 8) -> list[Chart]:
    found = spectrum(rows_of(dim), seed=0)
    reference = torch.linspace(1, 2, dim, dtype=torch.float64)
    return [Straight.of(found, 0.1, 1e-3), Polar.of(found, 0.1, 50.0, reference, 3.0)]


@pytest.mark.parametrize("which", [0, 1])
def test_coordinates_and_basis_are_inverse_to_each_other(which: int) -> None:
    chart = charts()[which]
    rng = torch.Generator().manual_seed(1)
    basis = torch.linspace(1, 2, 8).double()[:, None] + 0.3 * torch.randn(8, 3, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(chart.basis(chart.coordinates(basis)), basis)


@pytest.mark.parametrize("which", [0, 1])
def test_the_gradient_by_coordinates_is_that_of_autograd(which: int) -> None:
    chart = charts()[which]
    rng = torch.Generator().manual_seed(2)
    basis = torch.linspace(1, 2, 8).double()[:, None] + 0.3 * torch.randn(8, 3, generator=rng, dtype=torch.float64)
    slope = torch.randn(8, 3, generator=rng, dtype=torch.float64)
    point = chart.coordinates(basis).requires_grad_()
    (chart.basis(point) * slope).sum().backward()
    torch.testing.assert_close(chart.pulled_back(point.detach(), slope), point.grad)


def test_a_straight_chart_makes_a_quadratic_round() -> None:
    rows = rows_of(8)
    chart = Straight.of(spectrum(rows, seed=0), loss=0.1, strength=1e-3)
    curvature = 0.1 * rows.T @ rows / len(rows) + 2e-3 * torch.eye(8, dtype=torch.float64)
    point = torch.eye(8, dtype=torch.float64)
    seen = chart.pulled_back(point, curvature @ chart.basis(point))
    torch.testing.assert_close(seen, torch.eye(8, dtype=torch.float64))


def test_the_spectrum_of_many_numbers_is_found_up_to_what_is_left() -> None:
    rows = rows_of(600)
    found = spectrum(rows, seed=0)
    exact = torch.linalg.eigvalsh(rows.T @ rows / len(rows)).flip(0)
    torch.testing.assert_close(found.spread.flip(0)[:20], exact[:20], rtol=1e-3, atol=0)
    torch.testing.assert_close(found.directions.T @ found.directions, torch.eye(256, dtype=torch.float64))
    total = float(found.spread.sum()) + found.rest * (600 - 256)
    assert total == pytest.approx(float(exact.sum()))


def test_what_does_not_spread_is_not_stretched_without_end() -> None:
    flat = Spectrum(torch.eye(2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64), 0.0)
    point = torch.ones(2, 1, dtype=torch.float64)
    assert float(Straight.of(flat, 0.1, 0.0).basis(point).abs().max()) < 1e4
