"""For whom personalizing helps, user by user, and how much one user or one group matters to the headline."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.special import stdtr
from scipy.stats import false_discovery_control
from torch import Tensor

from lore.evaluation.metrics import Accuracy, log_likelihood
from lore.fitting.likelihood import design_effect
from lore.pairs.table import Pairs

Verdict = Literal["helps", "hurts", "undecided"]
_MIN_CHOICES = 5  # independent choices from which a verdict is made
FALSE_DISCOVERIES = 0.1  # share of the verdicts other than "undecided" that may be wrong


@dataclass(frozen=True)
class Verdicts:
    """Verdicts on whether a personal model predicts each user's held-out choices better than one model for all.

    Attributes:
        log_odds: posterior odds of the personal model against the other, which were even before, in nats, `[users]`;
            NaN for a user without held-out choices.
        p_value: of "both predict this user alike", two-sided, `[users]`; 1 from fewer than five independent choices.
        verdict: +1 helps, -1 hurts, 0 undecided, `[users]`.
        rate: false discovery rate that the verdicts keep (Benjamini and Hochberg 1995).
    """

    log_odds: Tensor
    p_value: Tensor
    verdict: Tensor
    rate: float

    def counts(self) -> dict[Verdict, int]:
        """Count the users of each verdict, among those with held-out choices."""
        verdict = self.verdict[self.log_odds.isfinite()]
        return {
            "helps": int((verdict > 0).sum()),
            "hurts": int((verdict < 0).sum()),
            "undecided": int((verdict == 0).sum()),
        }


def verdicts(pairs: Pairs, personal: Tensor, common: Tensor, rate: float = FALSE_DISCOVERIES) -> Verdicts:
    """User by user, from the probabilities of held-out choices under two models.

    The odds are of the summed log-likelihoods, the p-values from Student's test of their mean difference. In both,
    choices that share items count as the fewer independent ones that they are worth (`design_effect`).

    Args:
        pairs: held-out choices.
        personal: P(chosen preferred to rejected) of each, `[pairs]`, under the personal model.
        common: the same under the model for all.
        rate: of false discoveries.
    """
    better = log_likelihood(pairs, personal) - log_likelihood(pairs, common)
    count = pairs.counts.double()
    total = _by_user(pairs, better)
    mean = total / count
    spread = _by_user(pairs, (better - mean[pairs.user]).square()) / (count - 1).clamp(min=1)
    independent = count / design_effect(pairs).double()
    student = mean / (spread / independent).sqrt()
    # Without any spread there is a difference for sure, or none at all.
    student = torch.where(spread > 0, student, torch.where(mean == 0, 0.0, mean.sign() * torch.inf))
    value = torch.from_numpy(2 * stdtr((independent - 1).clamp(min=1e-9).cpu().numpy(), -student.abs().cpu().numpy()))
    value = torch.where((independent >= _MIN_CHOICES).cpu(), value, 1.0)
    tested = count.cpu() > 0
    certain = torch.zeros(len(value), dtype=torch.bool)
    certain[tested] = torch.from_numpy(false_discovery_control(value[tested].numpy()) <= rate)
    verdict = torch.where(certain, mean.sign().cpu(), 0.0).long()
    return Verdicts(total / design_effect(pairs).double() / (count > 0), value, verdict, rate)


def _by_user(pairs: Pairs, values: Tensor) -> Tensor:
    return torch.zeros(len(pairs.users), dtype=torch.float64, device=values.device).index_add_(0, pairs.user, values)


def worst_tenth(model: Accuracy) -> float:
    """Mean accuracy of the tenth of the users whom a model predicts worst, one at least."""
    accuracies = model.per_user[model.per_user.isfinite()].sort().values
    return float(accuracies[: max(len(accuracies) // 10, 1)].mean()) if len(accuracies) else math.nan


@dataclass(frozen=True)
class Sensitivity:
    """The range of a gain when one user, or one group, is left out of what it is measured on.

    Attributes:
        low: the lowest gain with one left out.
        high: the highest.
    """

    low: float
    high: float


def without_one_user(model: Accuracy, baseline: Accuracy) -> Sensitivity:
    """Return the range of the gain of `model` over `baseline` with each user in turn left out."""
    difference = model.per_user - baseline.per_user
    finite = difference[difference.isfinite()]
    if len(finite) < 2:
        return Sensitivity(math.nan, math.nan)
    left = (finite.sum() - finite) / (len(finite) - 1)
    return Sensitivity(float(left.min()), float(left.max()))


def without_one_group(pairs: Pairs, better: Tensor) -> Sensitivity:
    """Return the range of the mean over users of their mean of `better`, with each group in turn left out.

    Args:
        pairs: held-out choices; one that straddles two groups is left out with either.
        better: of each pair, how much more right one model is than another.
    """
    groups, number = pairs.group.unique(return_inverse=True)
    sides = [number[pairs.chosen]] if pairs.rejected is None else [number[pairs.chosen], number[pairs.rejected]]
    pair_index = torch.arange(len(pairs), device=number.device).repeat(len(sides))
    # Each pair once for each group that it touches, and the cells of users and groups that there are.
    user, group, pair = torch.unique(torch.stack([pairs.user.repeat(len(sides)), torch.cat(sides), pair_index]), dim=1)
    cells, cell = torch.unique(torch.stack([user, group]), dim=1, return_inverse=True)
    user, group = cells
    better = better.double()
    none = better.new_zeros(len(user))
    total, count = _by_user(pairs, better), pairs.counts.double()
    remaining = total[user] - none.index_add(0, cell, better[pair])
    fewer = count[user] - none.index_add(0, cell, torch.ones_like(better[pair]))
    mean = total / count.clamp(min=1)
    changed = torch.where(fewer > 0, remaining / fewer.clamp(min=1), 0.0) - mean[user]
    sums = mean.sum() + better.new_zeros(len(groups)).index_add_(0, group, changed)
    users = (count > 0).sum() - better.new_zeros(len(groups)).index_add_(0, group, (fewer == 0).double())
    left = (sums / users)[users > 0]
    return Sensitivity(float(left.min()), float(left.max())) if len(left) else Sensitivity(math.nan, math.nan)
