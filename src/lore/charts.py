"""Coordinates of a basis in which its objective is round, so that a descent takes few steps.

Embeddings spread over a few directions far more than over the rest, and the objective is as stretched as they are. The
charts undo that: in their coordinates the curvature is about 1 in every direction.

    Straight   basis = root of the inverse curvature, applied to each column             distance to a reference
    Polar      column = exp(log_length) * (reference direction + offset across it)       angle to a reference
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
    """How far rows spread: along leading directions, and on average along all others.

    Attributes:
        directions: orthonormal columns, `[dim, leading]`.
        spread: mean squared coordinate along each, `[leading]`.
        rest: mean squared coordinate along every direction across them.
    """

    directions: Tensor
    spread: Tensor
    rest: float


def spectrum(rows: Tensor, seed: int) -> Spectrum:
    """Leading directions of rows `[rows, dim]`: all up to 512, beyond that 256 by a randomized range finder.

    One power iteration and one projection (Halko, Martinsson and Tropp 2011, algorithms 4.4 and 5.3).
    """
    dim = rows.shape[1]
    if dim <= _EXACT:
        values, found = torch.linalg.eigh(rows.T @ rows / len(rows))
        return Spectrum(found, values.clamp(min=0), 0.0)
    probes = torch.randn(dim, _LEADING, generator=torch.Generator().manual_seed(seed)).to(rows)
    range_of_rows = torch.linalg.qr((functional.linear(rows, probes.T.contiguous()).T @ rows).T).Q
    coordinates = functional.linear(rows, range_of_rows.T.contiguous())
    values, found = torch.linalg.eigh(coordinates.T @ coordinates / len(rows))
    left = float(rows.square().sum(dtype=torch.float64)) / len(rows) - float(values.sum())
    return Spectrum(range_of_rows @ found, values.clamp(min=0), max(left, 0.0) / (dim - _LEADING))


class Chart(Protocol):
    """Coordinates of a basis `[dim, rank]`."""

    def coordinates(self, basis: Tensor) -> Tensor:
        """Where a basis lies."""

    def basis(self, point: Tensor) -> Tensor:
        """The basis `[dim, rank]` at a point."""

    def pulled_back(self, point: Tensor, gradient: Tensor) -> Tensor:
        """The gradient by the coordinates at a point, from that by the basis."""


@dataclass(frozen=True)
class _Root:
    """The symmetric map with given factors along the directions of a spectrum, and one across them."""

    directions: Tensor
    along: Tensor
    across: float

    @classmethod
    def of_curvature(cls, found: Spectrum, loss: float, penalty: float) -> "_Root":
        """The inverse square root of `loss * spread + penalty` along every direction."""
        along = loss * found.spread + penalty
        floor = max(_FLOOR * float(along.max()), torch.finfo(along.dtype).tiny)
        across = max(loss * found.rest + penalty, floor) ** -0.5
        return cls(found.directions, along.clamp(min=floor).rsqrt(), across)

    def __call__(self, columns: Tensor) -> Tensor:
        return self._scaled(columns, self.along, self.across)

    def inverse(self, columns: Tensor) -> Tensor:
        return self._scaled(columns, 1 / self.along, 1 / self.across)

    def _scaled(self, columns: Tensor, along: Tensor, across: float) -> Tensor:
        inside = self.directions.T @ columns
        return across * columns + self.directions @ ((along - across)[:, None] * inside)


@dataclass(frozen=True)
class Straight:
    """Columns as they are, stretched by the inverse root of the curvature."""

    root: _Root

    @classmethod
    def of(cls, found: Spectrum, loss: float, strength: float) -> "Straight":
        """For the curvature `loss * spread + 2 * strength` of loss and penalty by a column."""
        return cls(_Root.of_curvature(found, loss, 2 * strength))

    def coordinates(self, basis: Tensor) -> Tensor:
        """Where a basis lies, `[dim, rank]`."""
        return self.root.inverse(basis)

    def basis(self, point: Tensor) -> Tensor:
        """The basis `[dim, rank]` at a point."""
        return self.root(point)

    def pulled_back(self, point: Tensor, gradient: Tensor) -> Tensor:
        """The gradient by the coordinates: the map is its own transpose."""
        del point
        return self.root(gradient)


@dataclass(frozen=True)
class Polar:
    """Each column by its length (in logarithms, counted so that the start is at 1) and its offset from a direction.

    A strong penalty on angles is stiff in the columns themselves, as it allows them one direction only; here it is a
    round bowl in the offsets, and the lengths are free. Coordinates are `[1 + dim, rank]`, lengths first.
    """

    root: _Root
    direction: Tensor
    length: float

    @classmethod
    def of(cls, found: Spectrum, loss: float, strength: float, reference: Tensor, length: float) -> "Polar":
        """For columns of about that `length` and the curvature `strength` of the penalty by an offset."""
        root = _Root.of_curvature(found, loss * length**2, strength)
        return cls(root, functional.normalize(reference, dim=0), length)

    def coordinates(self, basis: Tensor) -> Tensor:
        """Where a basis lies, `[1 + dim, rank]`; columns must be within a right angle of the direction."""
        along = self.direction @ basis
        offsets = basis / along - self.direction[:, None]
        return torch.cat([1 + (along / self.length).log()[None], self.root.inverse(offsets)])

    def basis(self, point: Tensor) -> Tensor:
        """The basis `[dim, rank]` at a point."""
        return self._lengths(point) * (self.direction[:, None] + self._offsets(point))

    def pulled_back(self, point: Tensor, gradient: Tensor) -> Tensor:
        """The gradient by lengths and offsets."""
        columns = self.basis(point)
        across = gradient - self.direction[:, None] * (self.direction @ gradient)
        by_length = (columns * gradient).sum(dim=0, keepdim=True)
        return torch.cat([by_length, self.root(self._lengths(point) * across)])

    def _lengths(self, point: Tensor) -> Tensor:
        return self.length * (point[0] - 1).exp()

    def _offsets(self, point: Tensor) -> Tensor:
        offsets = self.root(point[1:])
        return offsets - self.direction[:, None] * (self.direction @ offsets)
