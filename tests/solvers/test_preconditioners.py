import pytest
import torch

from lore.solvers.preconditioners import ColumnScaling, DirectionAndLength, Preconditioner, Spectrum, spectrum


def rows_of(dim: int, rows: int = 600) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    decay = 1 / (1 + torch.arange(dim, dtype=torch.float64))
    return torch.randn(rows, dim, generator=rng, dtype=torch.float64) * decay


def preconditioners(dim: int = 8) -> list[Preconditioner]:
    found = spectrum(rows_of(dim), seed=0)
    reference = torch.linspace(1, 2, dim, dtype=torch.float64)
    return [ColumnScaling.of(found, 0.1, 1e-3), DirectionAndLength.of(found, 0.1, 50.0, reference, 3.0)]


@pytest.mark.parametrize("which", [0, 1])
def test_coordinates_and_basis_are_inverse_to_each_other(which: int) -> None:
    preconditioner = preconditioners()[which]
    rng = torch.Generator().manual_seed(1)
    basis = torch.linspace(1, 2, 8).double()[:, None] + 0.3 * torch.randn(8, 3, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(preconditioner.to_basis(preconditioner.from_basis(basis)), basis)


@pytest.mark.parametrize("which", [0, 1])
def test_the_gradient_by_coordinates_is_that_of_autograd(which: int) -> None:
    preconditioner = preconditioners()[which]
    rng = torch.Generator().manual_seed(2)
    basis = torch.linspace(1, 2, 8).double()[:, None] + 0.3 * torch.randn(8, 3, generator=rng, dtype=torch.float64)
    slope = torch.randn(8, 3, generator=rng, dtype=torch.float64)
    point = preconditioner.from_basis(basis).requires_grad_()
    (preconditioner.to_basis(point) * slope).sum().backward()
    torch.testing.assert_close(preconditioner.pullback(point.detach(), slope), point.grad)


def test_scaled_columns_make_a_quadratic_round() -> None:
    rows = rows_of(8)
    preconditioner = ColumnScaling.of(spectrum(rows, seed=0), loss=0.1, strength=1e-3)
    curvature = 0.1 * rows.T @ rows / len(rows) + 2e-3 * torch.eye(8, dtype=torch.float64)
    point = torch.eye(8, dtype=torch.float64)
    seen = preconditioner.pullback(point, curvature @ preconditioner.to_basis(point))
    torch.testing.assert_close(seen, torch.eye(8, dtype=torch.float64))


def test_the_spectrum_of_many_numbers_is_found_up_to_what_is_left() -> None:
    rows = rows_of(600)
    found = spectrum(rows, seed=0)
    exact = torch.linalg.eigvalsh(rows.T @ rows / len(rows)).flip(0)
    torch.testing.assert_close(found.spread.flip(0)[:20], exact[:20], rtol=1e-3, atol=0)
    torch.testing.assert_close(found.directions.T @ found.directions, torch.eye(256, dtype=torch.float64))
    total = float(found.spread.sum()) + found.tail_variance * (600 - 256)
    assert total == pytest.approx(float(exact.sum()))


def test_what_does_not_spread_is_not_stretched_without_end() -> None:
    flat = Spectrum(torch.eye(2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64), 0.0)
    point = torch.ones(2, 1, dtype=torch.float64)
    assert float(ColumnScaling.of(flat, 0.1, 0.0).to_basis(point).abs().max()) < 1e4
