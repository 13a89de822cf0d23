"""Baselines and controls: models that must not do well unless something leaks."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from lore.evaluation.metrics import log_loss
from lore.fitting.basis import RewardBasis
from lore.fitting.personalize import fit_weights
from lore.pairs.table import Pairs
from lore.solvers.gaussian_em import principal_features

_VARIANCES = (0.01, 0.1, 1.0, 10.0)  # of the prior of `per_user_baseline`, on features of unit scale
_DEFAULT_VARIANCE = 0.1  # if there is nothing to choose by


def with_random_labels(pairs: Pairs, seed: int) -> Pairs:
    """Return the same pairs with choices that a coin made."""
    generator = torch.Generator().manual_seed(seed)
    swap = torch.randint(2, (len(pairs),), generator=generator).bool().to(pairs.label.device)
    return replace(pairs, label=torch.where(swap, 1 - pairs.label, pairs.label), ratings=None)


def with_other_users_weights(weights: Tensor, trained: Pairs, seed: int) -> Tensor | None:
    """Return weights in which each user with training pairs has those of another such user.

    Args:
        weights: `[users, columns]`.
        trained: pairs that the weights were learned from.
        seed: of the permutation.

    Returns:
        `[users, columns]`; None with fewer than two users to exchange.
    """
    with_pairs = torch.nonzero(trained.counts > 0).flatten().cpu()
    if len(with_pairs) < 2:
        return None
    order = with_pairs[torch.randperm(len(with_pairs), generator=torch.Generator().manual_seed(seed))]
    exchanged = weights.clone()
    exchanged[order] = exchanged[order.roll(1)]
    return exchanged


def length_margins(pairs: Pairs) -> Tensor | None:
    """Return how much longer the chosen response is, `[pairs]`; None if lengths are unknown."""
    if pairs.length is None or pairs.rejected is None:
        return None
    return pairs.length[pairs.chosen] - pairs.length[pairs.rejected]


def per_user_baseline(pairs: Pairs) -> RewardBasis:
    """Return a basis in which each user is learned from their own pairs alone.

    Ridge logistic regression on features: a gaussian basis without a center, its variance chosen on held-out groups.
    """
    pairs = pairs.compact()
    features = principal_features(pairs.vectors).map

    def basis(variance: float) -> RewardBasis:
        vectors = features * math.sqrt(variance)
        zero = torch.zeros_like(vectors)
        return RewardBasis(vectors, zero[:, 0], zero[0], family="gaussian", rank=vectors.shape[1])

    groups, number = pairs.group.unique(return_inverse=True)
    held_out = torch.randperm(len(groups), generator=torch.Generator().manual_seed(0)) % 3 == 0
    train, test = pairs.split_by_rows(held_out.to(number.device)[number])
    if len(train) == 0 or len(test) == 0:
        return basis(_DEFAULT_VARIANCE)

    def held_out_loss(variance: float) -> float:
        return log_loss(test, basis(variance), fit_weights(train, basis(variance)))

    return basis(min(_VARIANCES, key=held_out_loss))
