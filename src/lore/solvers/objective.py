"""The objective of LoRe, its parts and their exact gradients: tensors in, tensors out.

The only place where the likelihood and the penalties are computed. With margin m = r(chosen) - r(rejected),
temperature T, label y = P(chosen preferred) and pair weights v (Bose et al. 2025, section 3; docs/model.md):

    loss of a pair      y softplus(-m/T) + (1 - y) softplus(m/T)
    average="users"     mean over users with pairs of the v-weighted mean over the user's pairs
    average="pairs"     v-weighted mean over all pairs
    penalty="distance"  strength * sum over columns of ||column - reference||^2
    penalty="cosine"    strength * mean over columns of (1 - cos(column, reference))
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lore.solvers.products import adjoint, product

Average = Literal["users", "pairs"]
PenaltyKind = Literal["distance", "cosine"]


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to compute in: float32 for embeddings of half precision, else their own."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


class ValueAndGradient(NamedTuple):
    """A scalar, and its gradient in the shape of the variable."""

    value: Tensor
    gradient: Tensor


def pair_loss(margin: Tensor, label: Tensor, temperature: float) -> Tensor:
    """Negative log-likelihood of each judgement, `[pairs]`; finite at any finite margin.

    Args:
        margin: reward of chosen minus reward of rejected, `[pairs]`.
        label: probability that chosen is preferred, `[pairs]`; 1 for a plain choice.
        temperature: of the link, positive.
    """
    scaled = margin / temperature
    # softplus(-s) + (1 - y) s equals the formula above, as softplus(s) = softplus(-s) + s.
    return functional.softplus(-scaled) + (1 - label) * scaled


def pair_slope(margin: Tensor, label: Tensor, temperature: float) -> Tensor:
    """Return the derivative of `pair_loss` by the margin, `[pairs]`."""
    return (torch.sigmoid(margin / temperature) - label) / temperature


def pair_curvature(margin: Tensor, temperature: float) -> Tensor:
    """Second derivative of `pair_loss` by the margin, `[pairs]`; not negative."""
    scaled = margin / temperature
    return torch.sigmoid(scaled) * torch.sigmoid(-scaled) / temperature**2


def pair_shares(user: Tensor, weight: Tensor, users: int, average: Average) -> Tensor:
    """Return what each pair counts in the loss, `[pairs]`; the shares sum to one.

    Args:
        user: who made each choice, `[pairs]`, in 0..users-1.
        weight: not negative, `[pairs]`.
        users: how many users there are, with or without pairs.
        average: whether users or pairs count alike.
    """
    if average == "pairs":
        return weight / weight.sum()
    total = torch.zeros(users, dtype=weight.dtype, device=weight.device).index_add_(0, user, weight)
    share = weight / total.index_select(0, user)
    return torch.where(weight > 0, share, torch.zeros_like(share)) / (total > 0).sum()


@dataclass(frozen=True)
class Likelihood:
    """The Bradley-Terry loss of a table of choices as a function of basis and weights.

    `vectors` `[rows, dim]` is read once for the margins and once for the gradient of the basis; the choices
    themselves live in `rank` numbers a row. Cost O((rows · dim + pairs) · rank); no `[pairs, dim]` array is formed.
    `vectors` may be of half precision, or mapped from a file: they are read, and widened, a block at a time.

    Attributes:
        vectors: embeddings `[rows, dim]`, or differences of embeddings where `rejected` is None.
        chosen: row preferred in each pair, `[pairs]`.
        rejected: row not preferred, `[pairs]`, or None.
        user: row of the weights, `[pairs]`.
        label: probability that chosen is preferred, `[pairs]`.
        share: what each pair counts, `[pairs]`, from `pair_shares`.
        temperature: of the link.
    """

    vectors: Tensor
    chosen: Tensor
    rejected: Tensor | None
    user: Tensor
    label: Tensor
    share: Tensor
    temperature: float

    def project(self, basis: Tensor) -> Tensor:
        """Differences in coordinates of the basis, `[pairs, rank]`, for a basis `[dim, rank]`."""
        coordinates = product(self.vectors, basis)
        if self.rejected is None:
            return coordinates.index_select(0, self.chosen)
        return coordinates.index_select(0, self.chosen) - coordinates.index_select(0, self.rejected)

    def project_transposed(self, values: Tensor) -> Tensor:
        """Return the adjoint of `project`: `[dim, rank]` from `values` `[pairs, rank]`."""
        rows = torch.zeros(len(self.vectors), values.shape[1], dtype=values.dtype, device=values.device)
        rows.index_add_(0, self.chosen, values)
        if self.rejected is not None:
            rows.index_add_(0, self.rejected, values, alpha=-1)
        return adjoint(self.vectors, rows)

    def margins(self, projected: Tensor, weights: Tensor) -> Tensor:
        """Reward of chosen minus reward of rejected, `[pairs]`, from `project` and weights `[users, rank]`."""
        return (projected * weights.index_select(0, self.user)).sum(dim=1)

    def loss(self, margin: Tensor) -> Tensor:
        """Return the mean loss, a scalar in float64, of margins `[pairs]`."""
        return (self.share.double() * pair_loss(margin.double(), self.label.double(), self.temperature)).sum()

    def slopes(self, margin: Tensor, weights: Tensor) -> Tensor:
        """Gradient of the loss by projected pairs, `[pairs, rank]`, at margins `[pairs]` and weights `[users, rank]`.

        `project_transposed` makes the gradient by the basis of it.
        """
        slope = self.share * pair_slope(margin, self.label, self.temperature)
        return slope[:, None] * weights.index_select(0, self.user)

    def weights_gradient(self, projected: Tensor, weights: Tensor) -> Tensor:
        """Gradient of the loss by the weights, `[users, rank]`, from `project` and weights of that shape."""
        margin = self.margins(projected, weights)
        slope = self.share * pair_slope(margin, self.label, self.temperature)
        return torch.zeros_like(weights).index_add_(0, self.user, slope[:, None] * projected)


def penalty(vectors: Tensor, reference: Tensor, strength: float, kind: PenaltyKind) -> ValueAndGradient:
    """Return the penalty on the basis, and its gradient `[dim, rank]`.

    Args:
        vectors: `[dim, rank]`; no column may be zero for the cosine.
        reference: direction that the columns are drawn to, `[dim]`; zeros for none ("distance" only).
        strength: not negative.
        kind: "distance" (Bose et al. 2025, equation 5, with the mean taken as in docs/model.md) or "cosine".
    """
    if kind == "distance":
        offset = vectors - reference[:, None]
        return ValueAndGradient(strength * offset.double().square().sum(), 2 * strength * offset)
    # 1 - cos = |a - b|^2 / 2 for unit vectors: exact where columns are close to the reference.
    length = vectors.norm(dim=0)
    unit = vectors / length
    offset = unit - functional.normalize(reference, dim=0)[:, None]
    across = offset - unit * (unit * offset).sum(dim=0)
    rank = vectors.shape[1]
    value = strength * offset.double().square().sum() / (2 * rank)
    return ValueAndGradient(value, strength / rank * across / length)


def moderated_margins(margin: Tensor, variance: Tensor, temperature: float) -> Tensor:
    """Margins whose probability is about that averaged over a normal margin of this variance (MacKay 1992, eq. 10)."""
    return margin / (1 + math.pi * variance.to(margin) / (8 * temperature**2)).sqrt()
