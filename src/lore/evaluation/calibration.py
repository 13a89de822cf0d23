"""Calibration of probabilities: reliability, and the scores that go with it."""

import math
from dataclasses import dataclass

import torch
from scipy.special import ndtri
from torch import Tensor

from lore.evaluation.intervals import Sample
from lore.evaluation.metrics import log_likelihood, margins
from lore.fitting.basis import RewardBasis
from lore.fitting.personalize import UserWeights, project_on
from lore.pairs.table import Pairs
from lore.solvers.objective import moderated_margins

_BINS = 10


@dataclass(frozen=True)
class Calibration:
    """Predicted against observed shares of the more likely answer.

    Attributes:
        predicted: mean probability in each bin, `[bins]`; bins hold equally many judgements.
        observed: share of judgements that the prediction had right, `[bins]`.
        low: lower end of the 95 % interval of `observed` for new users and new prompts, `[bins]`.
        high: upper end, `[bins]`.
        count: judgements in each bin, `[bins]`.
        error: expected calibration error: mean of `|observed - predicted|` over judgements.
        perfect_error: the error that is expected of as many judgements if every probability is true.
        brier: mean squared error of the probability.
        log_loss: mean negative log-likelihood.
    """

    predicted: Tensor
    observed: Tensor
    low: Tensor
    high: Tensor
    count: Tensor
    error: float
    perfect_error: float
    brier: float
    log_loss: float


def probabilities(pairs: Pairs, basis: RewardBasis, users: UserWeights | Tensor) -> Tensor:
    """P(chosen preferred to rejected) of each pair, `[pairs]`.

    For the gaussian family and `users` from `fit_weights`, the probability is averaged over each user's posterior
    (`lore.solvers.objective.moderated_margins`).
    """
    margin = margins(pairs, basis, users).double()
    if basis.family == "gaussian" and isinstance(users, UserWeights):
        margin = moderated_margins(margin, margin_variances(pairs, basis, users), basis.temperature)
    return torch.sigmoid(margin / basis.temperature)


def margin_variances(pairs: Pairs, basis: RewardBasis, users: UserWeights) -> Tensor:
    """Posterior variance of the margin of each pair, `[pairs]` (gaussian family)."""
    return users.variances(project_on(pairs, basis)[0], pairs.user)


def calibration(pairs: Pairs, basis: RewardBasis, users: UserWeights | Tensor, bins: int = _BINS) -> Calibration:
    """Calibration of a model's `probabilities` on held-out pairs, each judgement counting alike.

    The error is that of Naeini et al. 2015 with bins of equally many judgements. It is never 0 for few: compare it with
    `perfect_error`. Intervals are the wider ones of Wilson's (1927), which take judgements as independent, and of
    those that allow for shared users and prompts (`Sample`).

    Args:
        pairs: held-out choices.
        basis: shared directions.
        users: `UserWeights`, or weights `[users, columns]`, row by row in the order of `pairs.users`.
        bins: of confidence, from 1/2 to 1.
    """
    chance, label = probabilities(pairs, basis, users), pairs.label.double()
    likely = torch.maximum(chance, 1 - chance)
    right = torch.where(chance >= 1 / 2, label, 1 - label)
    parts = [part for part in likely.argsort().tensor_split(min(bins, len(pairs))) if len(part)]
    predicted = torch.stack([likely[part].mean() for part in parts])
    observed = torch.stack([right[part].mean() for part in parts])
    count = torch.tensor([len(part) for part in parts])
    low, high = _intervals(pairs, right, parts, observed, count)
    noise = torch.stack([(likely[part] * (1 - likely[part])).sum().sqrt() for part in parts])
    return Calibration(
        predicted=predicted,
        observed=observed,
        low=low,
        high=high,
        count=count,
        error=float(((observed - predicted).abs() * count).sum() / count.sum()),
        # The mean of |x| for a normal x is its standard deviation times the root of 2 / pi.
        perfect_error=float(math.sqrt(2 / math.pi) * noise.sum() / count.sum()),
        brier=float((label - chance).square().mean()),
        log_loss=-float(log_likelihood(pairs, chance).mean()),
    )


def _intervals(
    pairs: Pairs, right: Tensor, parts: list[Tensor], observed: Tensor, count: Tensor
) -> tuple[Tensor, Tensor]:
    """95 % intervals of the observed shares in bins, whose pairs are in `parts`."""
    low, high = _wilson(observed, count)
    for number, part in enumerate(parts):
        shared = Sample(pairs.select(part), correlation=0.0).estimate(right[part]).new_prompts
        if math.isfinite(shared.low):
            low[number] = low[number].clamp(max=max(shared.low, 0.0))
            high[number] = high[number].clamp(min=min(shared.high, 1.0))
    return low, high


def _wilson(share: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """95 % interval of a share (Wilson 1927)."""
    z = ndtri(0.975)
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * (share * (1 - share) / count + z**2 / (4 * count**2)).sqrt()
    return (middle - half).clamp(min=0), (middle + half).clamp(max=1)
