"""Learning the covariance of tastes: tensors in, tensors out.

A person's reward direction is `theta ~ N(center, Sigma)`, `Sigma = V V^T + s2 I`, V of `rank` columns, over features
(principal components of the embeddings under one global scale). Tempered expectation-maximization: the likelihood of a
person is raised to the power 1 / tempering, as pairs that share items are not independent (a composite likelihood).
The M-step is that of probabilistic principal components (Tipping and Bishop 1999, equations 7 and 8).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lore.objective import working_dtype
from lore.optimize import UserChoices, gaussian_weights

START_VARIANCE = 0.01
ITERATIONS = 8  # at most; held-out items choose among them
MOST_FEATURES = 80


@dataclass(frozen=True)
class Features:
    """A linear map of embeddings to features: `embeddings @ map`, `[dim, features]`, mean squared entry 1."""

    map: Tensor


@dataclass(frozen=True)
class Taste:
    """The square root of the learned covariance, `[features, features]`, tastes first, and how far the last step went.

    Attributes:
        root: `Sigma = root @ root.T`; columns are orthogonal and ordered by variance.
        change: relative change of Sigma in the last iteration, in the Frobenius norm.
    """

    root: Tensor
    change: float


def principal_features(vectors: Tensor, most: int = MOST_FEATURES) -> Features:
    """Principal components of vectors `[rows, dim]`, at most `most`, under one global scale.

    Exact singular values are found for the smaller side: O(rows · dim · min(rows, dim)).
    """
    centered = vectors.double()
    centered = centered - centered.mean(0)
    gram = centered.T @ centered if centered.shape[1] <= centered.shape[0] else centered @ centered.T
    values, found = torch.linalg.eigh(gram)
    kept = values.flip(0) > 1e-10 * values[-1].clamp(min=torch.finfo(torch.float64).tiny)
    count = max(min(most, int(kept.sum())), 1)
    directions = found.flip(1)[:, :count]
    if len(gram) != centered.shape[1]:
        directions = torch.nn.functional.normalize(centered.T @ directions, dim=0)
    spread = (centered @ directions).square().mean().sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    return Features((directions / spread).to(working_dtype(vectors.dtype)))


def learn_taste(
    choices: UserChoices, projected: Tensor, offset: Tensor, rank: int, iterations: int = ITERATIONS
) -> list[Taste]:
    """Tempered expectation-maximization from `Sigma = 0.01 I`; the covariance after each iteration.

    It has no end of its own: later iterations fit the training items. How many to take is for held-out items to say.

    Args:
        choices: who chose; `share` holds pair weights over the tempering.
        projected: differences of features, `[pairs, features]`.
        offset: margin of the center, `[pairs]`.
        rank: learned tastes; at most the number of features.
        iterations: how many to take.
    """
    features = projected.shape[1]
    root = START_VARIANCE**0.5 * torch.eye(features, dtype=torch.float64, device=projected.device)
    sigma = root @ root.T
    people = int((torch.bincount(choices.user, minlength=choices.users) > 0).sum())
    found = []
    for _ in range(iterations):
        posterior = gaussian_weights(choices, projected @ root.to(projected), offset, 1e-8, moments=True)
        moment = root @ (posterior.second_moment / max(people, 1)) @ root.T
        values, directions = torch.linalg.eigh(moment)
        values, directions = values.flip(0), directions.flip(1)
        noise = values[rank:].mean() if rank < features else values.new_zeros(())
        spread = torch.cat([values[:rank], noise.expand(features - rank).to(values)])
        root = directions * spread.clamp(min=1e-12).sqrt()
        before, sigma = sigma, root @ root.T
        found.append(Taste(root, change=float((sigma - before).norm() / before.norm())))
    return found
