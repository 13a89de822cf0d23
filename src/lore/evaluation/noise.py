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
_SPREADS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2, 1.5)  # over users, of that logarithm
_UNLIKELY = 1e-6  # odds, relative to the likeliest, of a distribution that does not count
_BLOCK = 8_192  # users at once
_ITERATIONS = 500
_STILL = 1e-6  # change of the learned parameters at which they are settled
_COUNTED = 40  # users from whom on it is counted who is surely different: with fewer, the population is hardly known
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
        spread: standard deviation of the logarithm over users; near 0 where all are alike.
        tie: Davidson's parameter; 0 without ties.
    """

    temperature: Tensor
    low: Tensor
    high: Tensor
    median: float
    spread: float
    tie: float

    @property
    def sure(self) -> tuple[int, int] | None:
        """Users who surely choose more noisily than the model says, and less; None with too few users to count."""
        if len(self.temperature) < _COUNTED:
            return None
        return int((self.low > 1).sum()), int((self.high < 1).sum())


def learn_noise(pairs: Pairs, margins: Tensor, temperature: float = 1.0) -> Noise:
    """Noise and ties from choices whose margins were not learned from them.

    A user u chooses by margins x over `temperature * t_u`, with `log t_u ~ N(log median, spread^2)`. The probability of
    a tie is `tie / (exp(x / 2) + exp(-x / 2) + tie)` (Davidson 1970, equation 2.3). Without ties that is the model's
    own link. The tie parameter is the likeliest, by expectation-maximization over a grid of t; median and spread are
    integrated over. Pairs that share items count as the fewer independent ones that they are worth (`design_effect`).

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
    tie = _likeliest_tie(choices, grid)
    evidence = choices.log_likelihood(grid, tie)
    population = _Population(grid, evidence[choices.has_choices])
    share = population.posteriors(evidence)
    tail = 0.025  # on each side of a 95 % interval
    low, middle, high = (_quantile(grid, share, quantile).exp() for quantile in (tail, 0.5, 1 - tail))
    return Noise(middle, low, high, population.median, population.spread, tie)


def _likeliest_tie(choices: "_Choices", grid: Tensor) -> float:
    """Return the likeliest tie parameter, by expectation-maximization over median, spread and tie; 0 without ties."""
    if choices.ties == 0:
        return 0.0
    median, spread, tie = 0.0, 1.0, choices.ties
    for _ in range(_ITERATIONS):
        share = torch.softmax(choices.log_likelihood(grid, tie) - (grid - median).square() / (2 * spread**2), dim=1)
        with_choices = share[choices.has_choices]
        mean = float((with_choices @ grid).mean())
        width = math.sqrt(float((with_choices @ (grid - mean).square()).mean()))
        before, after = (median, spread, tie), (mean, max(width, 1e-3), choices.likelier_tie(grid, share, tie))
        median, spread, tie = after
        if max(abs(new - old) for new, old in zip(after, before, strict=True)) < _STILL:
            break
    return tie


class _Population:
    """Normal distributions of the logarithm of users' temperatures, each with its probability given all choices.

    Median and spread are integrated over, flat before any choice: with few users either could be of many values, and
    plugged in as if it were known it would make every user look surely noisier, or surely steadier.

    Attributes:
        median: exponential of the mean of the distributions' means.
        spread: mean of their standard deviations.
    """

    def __init__(self, grid: Tensor, evidence: Tensor) -> None:
        means, spreads = torch.cartesian_prod(grid, torch.tensor(_SPREADS).to(grid)).T
        priors = torch.softmax(-(grid - means[:, None]).square() / (2 * spreads[:, None].square()), dim=1)
        log_odds = torch.zeros_like(means)
        for block in evidence.split(_BLOCK):
            log_odds += self._likelihood(block, priors)[1].log().sum(dim=0)
        odds = torch.softmax(log_odds, dim=0)
        likely = odds > _UNLIKELY * odds.max()
        self._priors, self._odds = priors[likely], odds[likely] / odds[likely].sum()
        self.median = math.exp(float(odds @ means))
        self.spread = float(odds @ spreads)

    def posteriors(self, evidence: Tensor) -> Tensor:
        """Return what each user's temperature may be, `[users, grid]`, from log-likelihoods `[users, grid]`."""
        shares = []
        for block in evidence.split(_BLOCK):
            chances, likelihood = self._likelihood(block, self._priors)
            share = chances * ((self._odds / likelihood) @ self._priors)
            shares.append(share / share.sum(dim=1, keepdim=True))
        return torch.cat(shares)

    @staticmethod
    def _likelihood(evidence: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
        """Return likelihoods on the grid, up to a factor for each user, and those under each distribution."""
        chances = (evidence - evidence.max(dim=1, keepdim=True).values).exp()
        return chances, (chances @ priors.T).clamp(min=torch.finfo(torch.float64).tiny)


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
