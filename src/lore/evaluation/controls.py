"""Baselines and controls: models that must not do well unless something leaks."""

import math
from collections.abc import Iterator
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
_EXCHANGES = 8  # other users whose weights each user is given: one alone is a noisy control
_PRIOR_COMPARISONS = 4.0  # that a win rate is shrunk by


def with_random_labels(pairs: Pairs, seed: int) -> Pairs:
    """Return the same pairs with choices that a coin made."""
    generator = torch.Generator().manual_seed(seed)
    swap = torch.randint(2, (len(pairs),), generator=generator).bool().to(pairs.label.device)
    return replace(pairs, label=torch.where(swap, 1 - pairs.label, pairs.label), ratings=None)


def exchanged_weights(weights: Tensor, trained: Pairs, seed: int) -> Iterator[Tensor]:
    """Yield weights in which each user with training pairs has those of another such user; no other user's twice.

    Args:
        weights: `[users, columns]`.
        trained: pairs that the weights were learned from.
        seed: of the order in which they are handed on.

    Returns:
        At most eight times `[users, columns]`; nothing with fewer than two users to exchange.
    """
    with_pairs = torch.nonzero(trained.counts > 0).flatten().cpu()
    order = with_pairs[torch.randperm(len(with_pairs), generator=torch.Generator().manual_seed(seed))]
    for shift in range(1, min(_EXCHANGES, len(order) - 1) + 1):
        exchanged = weights.clone()
        exchanged[order] = exchanged[order.roll(shift)]
        yield exchanged


def item_rate_margins(pairs: Pairs, trained: Pairs) -> Tensor | None:
    """Return how much more often the chosen response won in training than the rejected one, `[pairs]`.

    Win rates are those of all users of `trained`, each shrunk toward one half by four comparisons, two of them won.

    Returns:
        None if responses have no rows of their own, or fewer than half of the pairs have one that was judged.
    """
    if pairs.rejected is None or trained.rejected is None or len(pairs) == 0:
        return None
    size = 1 + int(pairs.response.max())
    total, won = (torch.zeros(size, dtype=torch.float64, device=pairs.label.device) for _ in range(2))
    label = trained.label.double()
    for row, share in ((trained.chosen, label), (trained.rejected, 1 - label)):
        total.index_add_(0, trained.response[row], torch.ones_like(share))
        won.index_add_(0, trained.response[row], share)
    first, second = pairs.response[pairs.chosen], pairs.response[pairs.rejected]
    if 2 * int(((total[first] > 0) | (total[second] > 0)).sum()) < len(pairs):
        return None
    rate = (won + _PRIOR_COMPARISONS / 2) / (total + _PRIOR_COMPARISONS)
    return rate[first] - rate[second]


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
