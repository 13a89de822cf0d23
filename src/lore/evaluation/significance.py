"""For whom personalizing helps, user by user."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.stats import binom, false_discovery_control
from torch import Tensor

from lore.evaluation.metrics import correct, log_likelihood
from lore.fitting.likelihood import design_effect
from lore.pairs.table import Pairs

Verdict = Literal["helps", "hurts", "undecided", "untestable"]
FALSE_DISCOVERIES = 0.1  # share of the verdicts "helps" and "hurts" that may be wrong
_SMALLEST = 0.01  # difference of two probabilities below which a different order is rounding, not another prediction
_VERDICTS: dict[int, Verdict] = {1: "helps", -1: "hurts", 0: "undecided"}


@dataclass(frozen=True)
class Verdicts:
    """Verdicts on whether a personal model predicts each user's held-out choices better than one model for all.

    Attributes:
        log_odds: posterior odds of the personal model against the other, which were even before, in nats, `[users]`;
            NaN for a user without held-out choices.
        p_value: of "both predict this user alike", two-sided, `[users]`.
        verdict: +1 helps, -1 hurts, 0 neither is sure, `[users]`.
        testable: whether the models disagree on enough choices for a verdict, `[users]`.
        rate: false discovery rate that the verdicts keep (Benjamini and Hochberg 1995).
    """

    log_odds: Tensor
    p_value: Tensor
    verdict: Tensor
    testable: Tensor
    rate: float

    def names(self) -> list[Verdict]:
        """Return the verdict of each user as a word."""
        return [
            _VERDICTS[verdict] if testable else "untestable"
            for verdict, testable in zip(self.verdict.tolist(), self.testable.tolist(), strict=True)
        ]

    def counts(self) -> dict[Verdict, int]:
        """Count the users of each verdict, among those with held-out choices."""
        counts: dict[Verdict, int] = {"helps": 0, "hurts": 0, "undecided": 0, "untestable": 0}
        for name, tested in zip(self.names(), self.log_odds.isfinite().tolist(), strict=True):
            counts[name] += tested
        return counts


def verdicts(pairs: Pairs, personal: Tensor, common: Tensor, rate: float = FALSE_DISCOVERIES) -> Verdicts:
    """User by user, from the probabilities of held-out choices under two models.

    The p-values are of the exact sign test on the choices that one model has right and the other wrong (McNemar 1947).
    Choices that share items count as the fewer independent ones that they are worth (`design_effect`). A user with so
    few of them that no outcome could be sure is not tested.

    Args:
        pairs: held-out choices.
        personal: P(chosen preferred to rejected) of each, `[pairs]`, under the personal model.
        common: the same under the model for all.
        rate: of false discoveries.
    """
    effect = design_effect(pairs).double()
    better = log_likelihood(pairs, personal) - log_likelihood(pairs, common)
    log_odds = _by_user(pairs, better) / effect / (pairs.counts > 0)
    sides = (correct(pairs, personal.double() - 1 / 2) - correct(pairs, common.double() - 1 / 2)).sign()
    sides = torch.where((personal - common).abs() < _SMALLEST, 0.0, sides)
    won, lost = (_by_user(pairs, (sides == side).double()) for side in (1, -1))
    independent = ((won + lost) / effect + 1e-9).floor()
    larger = (torch.maximum(won, lost) / (won + lost).clamp(min=1) * independent + 1e-9).floor()
    count, most = (values.cpu().numpy() for values in (independent, larger))
    p_value = np.minimum(2 * binom.sf(most - 1, count, 0.5), 1.0)
    testable = 2 * 0.5**count <= rate
    sure = np.zeros(len(count), dtype=bool)
    if testable.any():
        sure[testable] = false_discovery_control(p_value[testable]) <= rate
    verdict = torch.where(torch.from_numpy(sure), (won - lost).sign().cpu(), 0.0).long()
    return Verdicts(log_odds.cpu(), torch.from_numpy(p_value), verdict, torch.from_numpy(testable), rate)


def _by_user(pairs: Pairs, values: Tensor) -> Tensor:
    return torch.zeros(len(pairs.users), dtype=torch.float64, device=values.device).index_add_(0, pairs.user, values)


def worst_tenth(pairs: Pairs, right: Tensor) -> float:
    """Mean accuracy of the tenth of the users whom a model predicts worst, one at least; NaN without users.

    Cross-fitted: who is in the tenth is told by one half of each user's pairs and measured on the other half, and the
    other way round. Chosen and measured on the same pairs, the tenth would look bad by chance alone.

    Args:
        pairs: held-out choices.
        right: how far a model has each of them right, `[pairs]`.
    """
    shuffled = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0)).to(pairs.user.device)
    order = shuffled[torch.argsort(pairs.user[shuffled], stable=True)]
    first = (pairs.counts.cumsum(0) - pairs.counts)[pairs.user[order]]
    is_odd = torch.empty(len(pairs), dtype=torch.bool, device=pairs.user.device)
    is_odd[order] = (torch.arange(len(pairs), device=order.device) - first) % 2 == 1
    halves = [_by_user(pairs, right * half) / _by_user(pairs, half.double()) for half in (is_odd, ~is_odd)]
    in_both = halves[0].isfinite() & halves[1].isfinite()
    if not bool(in_both.any()):
        return math.nan
    one, other = (half[in_both] for half in halves)
    tenth = max(len(one) // 10, 1)
    means = [measured[ranking.argsort()[:tenth]].mean() for ranking, measured in ((one, other), (other, one))]
    return float(torch.stack(means).mean())
