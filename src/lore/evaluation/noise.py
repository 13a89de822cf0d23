"""Noise of choices: how consistently each user chooses, and how readily they call it a tie."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lore.errors import DataError
from lore.fitting.likelihood import design_effect
from lore.pairs.table import Pairs

_GRID = 61  # of the logarithm of a temperature
_WIDEST = 3.0  # of it, from zero
_ITERATIONS = 500
_STILL = 1e-6  # change of the learned parameters at which they are settled
_TIE = 0.5  # the label of a judgement that prefers neither


@dataclass(frozen=True)
class Noise:
    """The noise of users' choices, relative to a model's margins.

    Attributes:
        temperature: of each user's choices in units of the model's own, `[users]`, the median of what it may be: 1 is
            as the model says, more is noisier. The population's for a user without choices.
        low: lower end of its 95 % interval, `[users]`.
        high: upper end, `[users]`.
        median: of the population.
        spread: standard deviation of the logarithm over users; 0 where all are alike.
        tie: Davidson's parameter; 0 without ties.
    """

    temperature: Tensor
    low: Tensor
    high: Tensor
    median: float
    spread: float
    tie: float


def learn_noise(pairs: Pairs, margins: Tensor, temperature: float = 1.0) -> Noise:
    """Noise and ties from choices whose margins were not learned from them.

    A user u chooses by margins x over `temperature * t_u`, with `log t_u ~ N(log median, spread^2)`. The probability of
    a tie is `tie / (exp(x / 2) + exp(-x / 2) + tie)` (Davidson 1970, equation 2.3). Without ties that is the model's
    own link. Median, spread and tie are the likeliest, by expectation-maximization over a grid
    of t. Pairs that share items count as the fewer independent ones that they are worth (`design_effect`).

    Args:
        pairs: held-out choices; a label of 1/2 is a tie, others between 0 and 1 are odds of the two sides.
        margins: reward of chosen less reward of rejected, `[pairs]`.
        temperature: of the model's link.

    Raises:
        DataError: there are no choices.
    """
    if len(pairs) == 0:
        raise DataError("there are no choices to learn noise from; give held-out pairs")
    grid = torch.linspace(-_WIDEST, _WIDEST, _GRID, dtype=torch.float64, device=margins.device)
    choices = _Choices(pairs, margins.double() / temperature)
    median, spread, tie = 0.0, 1.0, choices.ties
    evidence = choices.log_likelihood(grid, tie)
    for _ in range(_ITERATIONS):
        odds = evidence - (grid - median).square() / (2 * spread**2)
        share = torch.softmax(odds, dim=1)
        with_choices = share[choices.has_choices]
        mean = float((with_choices @ grid).mean())
        width = math.sqrt(float((with_choices @ (grid - mean).square()).mean()))
        before, after = (median, spread, tie), (mean, max(width, 1e-3), choices.likelier_tie(grid, share, tie))
        median, spread, tie = after
        if max(abs(new - old) for new, old in zip(after, before, strict=True)) < _STILL:
            break
        if tie != before[2]:
            evidence = choices.log_likelihood(grid, tie)
    prior = torch.softmax(-(grid - median).square() / (2 * spread**2), dim=0)
    share = torch.where(choices.has_choices[:, None], share, prior)
    tail = 0.025  # on each side of a 95 % interval
    low, middle, high = (_quantile(grid, share, quantile).exp() for quantile in (tail, 0.5, 1 - tail))
    return Noise(middle, low, high, math.exp(median), spread, tie)


class _Choices:
    """Choices in units of the model's temperature, and what they are worth."""

    def __init__(self, pairs: Pairs, margin: Tensor) -> None:
        self._user, self._users, self._margin = pairs.user, len(pairs.users), margin
        self._worth = pairs.weight.double() / design_effect(pairs).double()[pairs.user]
        label = pairs.label.double()
        self._tied = label == _TIE
        self._label = label
        self.has_choices = torch.bincount(pairs.user[self._worth > 0], minlength=self._users) > 0
        self.ties = float(self._worth @ self._tied.double() / self._worth.sum().clamp(min=1e-300))

    def log_likelihood(self, grid: Tensor, tie: float) -> Tensor:
        """Return the log-likelihood of each user's choices at each logarithm of a temperature, `[users, grid]`."""
        values = torch.empty(self._users, len(grid), dtype=torch.float64, device=grid.device)
        for column, logarithm in enumerate(grid.tolist()):
            half = self._margin / (2 * math.exp(logarithm))
            # log(exp(h) + exp(-h) + tie), written so that it stays finite at h in the thousands
            size = half.abs()
            total = size + torch.log1p(torch.exp(-2 * size) + tie * torch.exp(-size))
            sided = (2 * self._label - 1) * half
            value = torch.where(self._tied, math.log(tie) if tie > 0 else 0.0, sided) - total
            values[:, column] = self._summed(value)
        return values

    def likelier_tie(self, grid: Tensor, share: Tensor, tie: float) -> float:
        """One step to where the derivative by the tie parameter is zero: ties over the expected rate of them."""
        if self.ties == 0:
            return 0.0
        rate = 0.0
        for column, logarithm in enumerate(grid.tolist()):
            half = (self._margin / (2 * math.exp(logarithm))).abs().clamp(max=300.0)
            rate += float(share[:, column] @ self._summed(1 / (2 * torch.cosh(half) + tie)))
        return float(self._worth @ self._tied.double()) / rate

    def _summed(self, value: Tensor) -> Tensor:
        """Sum values over each user's choices, `[users]`."""
        zero = torch.zeros(self._users, dtype=torch.float64, device=value.device)
        return zero.index_add_(0, self._user, self._worth * value)


def _quantile(grid: Tensor, share: Tensor, level: float) -> Tensor:
    """Return quantiles of distributions on a grid, `[users]`, linear between its points."""
    below = share.cumsum(1) - share / 2
    right = (below < level).sum(1).clamp(min=1, max=len(grid) - 1)
    rows = torch.arange(len(share), device=share.device)
    first, second = below[rows, right - 1], below[rows, right]
    part = ((level - first) / (second - first).clamp(min=1e-12)).clamp(0, 1)
    return grid[right - 1] + part * (grid[right] - grid[right - 1])
