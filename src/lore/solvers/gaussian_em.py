"""Learning the covariance of tastes: tensors in, tensors out.

A user's reward direction is `theta ~ N(center, Sigma)`, with `Sigma = V V^T + s2 I` and V of `rank` columns. It is over
features: principal components of the embeddings under one global scale. The covariance is learned by tempered
expectation-maximization. The likelihood of a user is raised to the power 1 / tempering, as pairs that share items are
not independent (a composite likelihood). The M-step is that of probabilistic principal components (Tipping and Bishop
1999, equations 7 and 8).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lore.solvers.gaussian_weights import gaussian_weights
from lore.solvers.objective import working_dtype
from lore.solvers.products import adjoint, product
from lore.solvers.user_problems import UserProblems

MAX_FEATURES = 80
_E_STEP = 1e-4  # gap of a user's objective at which an iteration's posterior is near enough


@dataclass(frozen=True)
class Features:
    """A linear map of embeddings to features: `embeddings @ map`, `[dim, features]`, mean squared entry 1."""

    map: Tensor


@dataclass(frozen=True)
class TasteCovariance:
    """A covariance of tastes.

    Attributes:
        root: its square root, `Sigma = root @ root.T`, `[features, features]`; columns are orthogonal, tastes first.
        change: relative change of Sigma in the last iteration, in the Frobenius norm.
    """

    root: Tensor
    change: float

    @property
    def variance(self) -> float:
        """Mean over the features."""
        return float(self.root.square().sum() / len(self.root))

    def scaled(self, scale: float) -> "TasteCovariance":
        """Return the covariance multiplied by a number."""
        return TasteCovariance(scale**0.5 * self.root, self.change)


def principal_features(vectors: Tensor, max_features: int = MAX_FEATURES) -> Features:
    """Principal components of vectors `[rows, dim]`, at most `max_features`, under one global scale.

    Exact singular values are found for the smaller side: O(rows · dim · min(rows, dim)).
    """
    rows, dim = vectors.shape
    mean = adjoint(vectors, torch.full((rows, 1), 1 / rows, dtype=torch.float64, device=vectors.device)).squeeze(1)
    centered = vectors.double() - mean
    # A centered table times anything is the table times that, less the mean's part; the adjoint needs no correction.
    gram = adjoint(vectors, centered) if dim <= rows else product(vectors, centered.T) - centered @ mean
    values, eigenvectors = torch.linalg.eigh(gram)
    mask = values.flip(0) > 1e-10 * values[-1].clamp(min=torch.finfo(torch.float64).tiny)
    count = max(min(max_features, int(mask.sum())), 1)
    directions = eigenvectors.flip(1)[:, :count]
    if dim > rows:
        directions = torch.nn.functional.normalize(adjoint(vectors, directions - directions.mean(0)), dim=0)
    features = product(vectors, directions) - mean @ directions
    spread = features.square().mean().sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    return Features((directions / spread).to(working_dtype(vectors.dtype)))


def covariance_em(
    problems: UserProblems, projected: Tensor, offset: Tensor, rank: int, variance: float
) -> Iterator[TasteCovariance]:
    """Tempered expectation-maximization from `Sigma = variance I`: the covariance after each iteration, without end.

    Later iterations fit the training items; how many to take is for held-out items to say.

    Args:
        problems: the users' own; `share` holds pair weights over the tempering.
        projected: differences of features, `[pairs, features]`.
        offset: margin of the center, `[pairs]`.
        rank: learned tastes; at most the number of features.
        variance: to begin with.
    """
    features = projected.shape[1]
    identity = torch.eye(features, dtype=torch.float64, device=projected.device)
    taste = TasteCovariance(variance**0.5 * identity, change=0.0)
    users = int((torch.bincount(problems.user, minlength=problems.users) > 0).sum())
    start = None
    while True:
        posterior = gaussian_weights(
            problems, projected @ taste.root.to(projected), offset, _E_STEP, start=start, moments=True
        )
        moment = taste.root @ (posterior.second_moment / max(users, 1)) @ taste.root.T
        after = ppca_covariance(moment, rank)
        start = torch.linalg.solve(after.root, taste.root @ posterior.weights.T).T
        sigma, before = after.root @ after.root.T, taste.root @ taste.root.T
        taste = TasteCovariance(after.root, change=float((sigma - before).norm() / before.norm()))
        yield taste


def ppca_covariance(moment: Tensor, rank: int) -> TasteCovariance:
    """Return the covariance `V V^T + s2 I`, V of `rank` columns, that is likeliest for deviations of a second moment.

    Args:
        moment: mean over users of deviation times deviation, `[features, features]`.
        rank: columns of V.
    """
    features = len(moment)
    values, directions = torch.linalg.eigh(moment)
    values, directions = values.flip(0), directions.flip(1)
    noise = values[rank:].mean() if rank < features else values.new_zeros(())
    spread = torch.cat([values[:rank], noise.expand(features - rank).to(values)])
    return TasteCovariance(directions * spread.clamp(min=1e-12).sqrt(), change=0.0)
