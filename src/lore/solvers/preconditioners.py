"""Preconditioners: coordinates of a basis in which the curvature of its objective is about 1 in every direction.

Embeddings spread over a few directions far more than over all others, and so does the curvature of the objective.

    ColumnScaling        basis = inverse root of the curvature, applied to each column           distance to a reference
    DirectionAndLength   column = exp(log_length) * (reference direction + offset across it)     angle to a reference
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

_EXACT = 512  # numbers in an embedding up to which all directions are found
_LEADING = 256  # directions that are found beyond
_FLOOR = 1e-6  # of the largest curvature: what is flatter is not stretched further


@dataclass(frozen=True)
class Spectrum:
    """The variance of rows along leading directions, and on average along all others.

    Attributes:
        directions: orthonormal columns, `[dim, leading]`.
        spread: mean squared coordinate along each, `[leading]`.
        tail_variance: mean squared coordinate along every direction across them.
    """

    directions: Tensor
    spread: Tensor
    tail_variance: float


def spectrum(rows: Tensor, seed: int) -> Spectrum:
    """Find leading directions of rows `[rows, dim]`: all up to 512, beyond that 256 by a randomized range finder.

    One power iteration and one projection (Halko, Martinsson and Tropp 2011, algorithms 4.4 and 5.3).
    """
    dim = rows.shape[1]
    if dim <= _EXACT:
        values, directions = torch.linalg.eigh(rows.T @ rows / len(rows))
        return Spectrum(directions, values.clamp(min=0), 0.0)
    probes = torch.randn(dim, _LEADING, generator=torch.Generator().manual_seed(seed)).to(rows)
    range_of_rows = torch.linalg.qr((functional.linear(rows, probes.T.contiguous()).T @ rows).T).Q
    coordinates = functional.linear(rows, range_of_rows.T.contiguous())
    values, rotation = torch.linalg.eigh(coordinates.T @ coordinates / len(rows))
    tail = float(rows.square().sum(dtype=torch.float64)) / len(rows) - float(values.sum())
    return Spectrum(range_of_rows @ rotation, values.clamp(min=0), max(tail, 0.0) / (dim - _LEADING))


class Preconditioner(Protocol):
    """Coordinates of a basis `[dim, rank]`."""

    def from_basis(self, basis: Tensor) -> Tensor:
        """Return the coordinates of a basis."""

    def to_basis(self, point: Tensor) -> Tensor:
        """Return the basis `[dim, rank]` at a point."""

    def pullback(self, point: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient by the coordinates at a point, from that by the basis."""


@dataclass(frozen=True)
class _InverseSqrt:
    """A symmetric map that scales by a factor along each direction of a spectrum, and by one across all of them."""

    directions: Tensor
    along: Tensor
    across: float

    @classmethod
    def of_curvature(cls, spectrum: Spectrum, loss: float, penalty: float) -> "_InverseSqrt":
        """Build the inverse square root of `loss * spread + penalty` along every direction."""
        along = loss * spectrum.spread + penalty
        floor = max(_FLOOR * float(along.max()), torch.finfo(along.dtype).tiny)
        across = max(loss * spectrum.tail_variance + penalty, floor) ** -0.5
        return cls(spectrum.directions, along.clamp(min=floor).rsqrt(), across)

    def __call__(self, columns: Tensor) -> Tensor:
        return self._scaled(columns, self.along, self.across)

    def inverse(self, columns: Tensor) -> Tensor:
        return self._scaled(columns, 1 / self.along, 1 / self.across)

    def _scaled(self, columns: Tensor, along: Tensor, across: float) -> Tensor:
        inside = self.directions.T @ columns
        return across * columns + self.directions @ ((along - across)[:, None] * inside)


@dataclass(frozen=True)
class ColumnScaling:
    """Columns scaled by the inverse root of the curvature."""

    inverse_sqrt: _InverseSqrt

    @classmethod
    def of(cls, spectrum: Spectrum, loss: float, strength: float) -> "ColumnScaling":
        """Build it for the curvature `loss * spread + 2 * strength` of loss and penalty by a column."""
        return cls(_InverseSqrt.of_curvature(spectrum, loss, 2 * strength))

    def from_basis(self, basis: Tensor) -> Tensor:
        """Return the coordinates of a basis, `[dim, rank]`."""
        return self.inverse_sqrt.inverse(basis)

    def to_basis(self, point: Tensor) -> Tensor:
        """Return the basis `[dim, rank]` at a point."""
        return self.inverse_sqrt(point)

    def pullback(self, point: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient by the coordinates; the map is its own transpose."""
        del point
        return self.inverse_sqrt(gradient)


@dataclass(frozen=True)
class DirectionAndLength:
    """Columns by their lengths (in logarithms, the start at 1) and their offsets from a direction.

    A strong penalty on angles is stiff in the columns themselves, as it allows them one direction only; here it is a
    round bowl in the offsets, and the lengths are free. Coordinates are `[1 + dim, rank]`, lengths first.
    """

    inverse_sqrt: _InverseSqrt
    direction: Tensor
    length: float

    @classmethod
    def of(
        cls, spectrum: Spectrum, loss: float, strength: float, reference: Tensor, length: float
    ) -> "DirectionAndLength":
        """Build it for columns of about that `length` and the curvature `strength` of the penalty by an offset."""
        inverse_sqrt = _InverseSqrt.of_curvature(spectrum, loss * length**2, strength)
        return cls(inverse_sqrt, functional.normalize(reference, dim=0), length)

    def from_basis(self, basis: Tensor) -> Tensor:
        """Return the coordinates `[1 + dim, rank]` of a basis, its columns within a right angle of the direction."""
        along = self.direction @ basis
        offsets = basis / along - self.direction[:, None]
        return torch.cat([1 + (along / self.length).log()[None], self.inverse_sqrt.inverse(offsets)])

    def to_basis(self, point: Tensor) -> Tensor:
        """Return the basis `[dim, rank]` at a point."""
        return self._lengths(point) * (self.direction[:, None] + self._offsets(point))

    def pullback(self, point: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient by lengths and offsets."""
        columns = self.to_basis(point)
        across = gradient - self.direction[:, None] * (self.direction @ gradient)
        by_length = (columns * gradient).sum(dim=0, keepdim=True)
        return torch.cat([by_length, self.inverse_sqrt(self._lengths(point) * across)])

    def _lengths(self, point: Tensor) -> Tensor:
        return self.length * (point[0] - 1).exp()

    def _offsets(self, point: Tensor) -> Tensor:
        offsets = self.inverse_sqrt(point[1:])
        return offsets - self.direction[:, None] * (self.direction @ offsets)
