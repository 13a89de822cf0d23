"""Means over users of what was measured on pairs, with intervals for new users and new prompts."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student
from torch import Tensor

from lore.pairs.table import Pairs, by_pair

LEVEL = 0.95  # of an interval, unless another is asked for
MIN_PAIRS = 5  # a report leaves out users with fewer test pairs: three choices hardly tell a good model from a bad one
MIN_USERS = 5  # users from whom an interval is made; from fewer nothing can be said about others
# Correlation of two choices of one user being predicted right: .04, .06 and 0 on three public sets (docs/results.md).
CORRELATION = 0.05
_TIGHTEST = 500  # choices after which intervals for every look are tightest
_NOTHING = 1e-12  # share of all pairs that is rounding

Numbers = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Interval:
    """A confidence interval; both ends are NaN where there are too few users, or prompts, to make one."""

    low: float
    high: float

    def within(self, low: float, high: float) -> "Interval":
        """Return the part of it that is possible."""
        return Interval(*np.clip([self.low, self.high], low, high).tolist())


UNKNOWN = Interval(math.nan, math.nan)


@dataclass(frozen=True)
class Estimate:
    """A mean over users of something that was measured on their pairs.

    Attributes:
        mean: each user counts by the number of their pairs, as `Sample` says.
        equal: the mean in which each user counts alike.
        new_prompts: interval of the mean for new users and new prompts.
        these_prompts: interval of the mean for new users and the prompts that were tested.
    """

    mean: float
    equal: float
    new_prompts: Interval
    these_prompts: Interval


def anytime_factor(choices: int, level: float = LEVEL) -> float:
    """Return how much wider an interval must be to hold at every look, however often it is looked at while data come.

    The asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024, theorem 2.2), relative
    to a normal interval, tightest after about 500 choices.

    Args:
        choices: that the interval is made from by now.
        level: of the interval.
    """
    error = 1 - level
    tuning = (-2 * math.log(error) + math.log(1 - 2 * math.log(error))) / _TIGHTEST  # equation 3.4 there
    scaled = max(choices, 1) * tuning
    boundary = math.sqrt(2 * (scaled + 1) / scaled * math.log(math.sqrt(scaled + 1) / error))
    return boundary / float(student.ppf((1 + level) / 2, math.inf))


class Sample:
    """Pairs that something is measured on, and what each counts in a mean over users.

    A user with n pairs counts `n / (1 + (n - 1) · r)`: as many independent pairs as theirs are worth if two choices of
    one user correlate by r = 0.05 (Kish 1965, section 5.4). One pair then counts 1, and any number at most 20.

    The variance of the mean sums products of deviations over all two pairs that share a user or a prompt (two-way
    clustering: Cameron, Gelbach and Miller 2011; Aronow, Samii and Assenova 2015 for pairs that touch two groups). Each
    cluster is corrected for its leverage as by the jackknife. Intervals are Student's, with Satterthwaite's (1946)
    degrees of freedom from the effective numbers of users and of groups; docs/results.md says what they cover.
    """

    def __init__(self, pairs: Pairs, min_pairs: int = 1, correlation: float = CORRELATION) -> None:
        """Choose who is counted.

        Args:
            pairs: what is measured on.
            min_pairs: users with fewer are left out; if the median user has fewer, those with fewer than that one.
            correlation: of two choices of one user; with 0 each pair counts alike.
        """
        self._all_users = pairs.user.cpu().numpy()
        self._pairs = pairs
        self.counts = np.bincount(self._all_users, minlength=len(pairs.users))
        median = np.median(self.counts[self.counts > 0]) if len(pairs) else 1
        self.is_counted = self.counts >= max(min(min_pairs, median), 1)
        self.users = int(self.is_counted.sum())
        self.left_out = int((self.counts > 0).sum()) - self.users
        self._mask = self.is_counted[self._all_users]
        self._user = self._all_users[self._mask]
        n = np.where(self.is_counted, self.counts, 0).astype(np.float64)
        worth = n / (1 + np.maximum(n - 1, 0) * correlation)
        self._share = worth / max(worth.sum(), 1.0)
        self._pair_share = (self._share / np.maximum(n, 1))[self._user]

    def per_user(self, values: Tensor) -> Numbers:
        """Mean of values `[pairs]` over each user's pairs, `[users]`; NaN for a user without pairs."""
        total = np.bincount(self._all_users, values.double().cpu().numpy(), minlength=len(self.counts))
        return np.divide(total, self.counts, out=np.full(len(total), np.nan), where=self.counts > 0)

    def mean(self, values: Tensor) -> float:
        """Mean of values `[pairs]` over users; NaN if there are none."""
        return float(self._pair_share @ self._numbers(values)) if self.users else math.nan

    def estimate(self, values: Tensor, level: float = LEVEL) -> Estimate:
        """Return the mean of values `[pairs]` over users, with its intervals.

        Args:
            values: such as 1 where a prediction is right and 0 where it is not.
            level: of the intervals.
        """
        mean, equal = self.mean(values), float("nan")
        if self.users:
            equal = float(self.per_user(values)[self.is_counted].mean())
        if self.users < MIN_USERS:
            return Estimate(mean, equal, UNKNOWN, UNKNOWN)
        deviation = self._pair_share * (self._numbers(values) - mean)
        by_user, user_freedom = _jackknife(self._user, deviation, self._pair_share)
        tail = (1 + level) / 2
        these = _around(mean, by_user, user_freedom, tail)
        if self._clusters.groups < 2:
            return Estimate(mean, equal, UNKNOWN, these)
        by_group, group_freedom = self._clusters.excess(deviation, self._pair_share)
        variance = by_user + by_group
        freedom = user_freedom
        if by_group > 0:
            freedom = variance**2 / (by_user**2 / user_freedom + by_group**2 / max(group_freedom, 1.0))
        return Estimate(mean, equal, _around(mean, variance, freedom, tail), these)

    def without_one_user(self, values: Tensor) -> Interval:
        """Return the lowest and the highest mean of values `[pairs]` with one user left out."""
        return self._leave_one_out(values, self._user, np.arange(len(self._user)))

    def without_one_group(self, values: Tensor) -> Interval:
        """Return the lowest and the highest mean of values `[pairs]` with one group, and all pairs of it, left out."""
        return self._leave_one_out(values, self._clusters.group, self._clusters.pair)

    def _leave_one_out(self, values: Tensor, cluster: Index, pair: Index) -> Interval:
        """Leave out the pairs of each cluster; those that remain count as before."""
        numbers, share = self._numbers(values), self._pair_share
        sums = np.bincount(cluster, (share * numbers)[pair]), np.bincount(cluster, share[pair])
        remaining = 1 - sums[1][sums[1] > 0]
        if len(remaining) < 2 or remaining.min() < _NOTHING:
            return UNKNOWN
        means = (share @ numbers - sums[0][sums[1] > 0]) / remaining
        return Interval(float(means.min()), float(means.max()))

    def _numbers(self, values: Tensor) -> Numbers:
        numbers: Numbers = values.double().cpu().numpy()[self._mask]
        return numbers

    @cached_property
    def _clusters(self) -> "_GroupClusters":
        first, second = (side.cpu().numpy()[self._mask] for side in by_pair(self._pairs, self._pairs.group))
        return _GroupClusters(self._user, first, second)


class _GroupClusters:
    """Groups (prompts, or items) that pairs touch: one, or one on each side.

    Attributes:
        groups: how many there are.
        group: of each time that a pair touches one, `[touches]`.
        pair: that touches it, `[touches]`.
    """

    def __init__(self, user: Index, first: Index, second: Index) -> None:
        values, numbers = np.unique(np.concatenate([first, second]), return_inverse=True)
        first, second = numbers[: len(first)], numbers[len(first) :]
        self.groups = len(values)
        self._two = np.flatnonzero(first != second)  # pairs that touch two groups
        self.pair = np.concatenate([np.arange(len(first)), self._two])
        self.group = np.concatenate([first, second[self._two]])
        both = np.minimum(first, second) * len(values) + np.maximum(first, second)
        self._both = _number(both[self._two])
        self._user_group = _number(user[self.pair] * len(values) + self.group)
        self._user_both = _number(user[self._two] * (int(self._both.max(initial=0)) + 1) + self._both)

    def excess(self, deviation: Numbers, share: Numbers) -> tuple[float, float]:
        """Return the variance that sharing a group adds between users, 0 at least, and its degrees of freedom."""
        touching, twice = deviation[self.pair], deviation[self._two]
        variance, freedom = _jackknife(self.group, touching, share[self.pair])
        # Pairs that share both groups were counted for each of them.
        variance -= _squared_sums(self._both, twice)
        of_one_user = _squared_sums(self._user_group, touching) - _squared_sums(self._user_both, twice)
        return max(variance - of_one_user, 0.0), freedom


def _jackknife(cluster: Index, deviation: Numbers, share: Numbers) -> tuple[float, float]:
    """Return the jackknife variance of a mean over clusters, and its degrees of freedom.

    The mean without cluster c moves by `sum of deviations / (1 - sum of shares)`. Clusters of unequal size count as the
    `1 / sum of squared shares` equal ones that they are worth, less one (Carter, Schnepel and Steigerwald 2017).
    """
    total, size = np.bincount(cluster, deviation), np.bincount(cluster, share)
    present = size > 0
    total, size = total[present], size[present]
    count, effective = len(size), size.sum() ** 2 / (size**2).sum()
    if size.max() >= 1:
        return math.inf, 1.0
    return float((count - 1) / count * ((total / (1 - size)) ** 2).sum()), float(max(effective - 1, 1.0))


def _around(mean: float, variance: float, freedom: float, tail: float) -> Interval:
    if not math.isfinite(variance):
        return UNKNOWN
    half = float(student.ppf(tail, freedom)) * math.sqrt(variance)
    return Interval(mean - half, mean + half)


def _squared_sums(cluster: Index, deviation: Numbers) -> float:
    return float((np.bincount(cluster, deviation) ** 2).sum())


def _number(values: Index) -> Index:
    """Return the values renumbered from 0."""
    return np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.int64)
