"""Accuracy, gain and log loss, with intervals over users."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtr, stdtrit
from torch import Tensor

from lore.errors import ShapeError
from lore.fitting.basis import RewardBasis
from lore.fitting.likelihood import likelihood
from lore.fitting.personalize import UserWeights, project_on
from lore.pairs.table import Pairs

_RESAMPLES = 2_000
_CERTAIN = 1e-12  # probabilities are kept this far from 0 and 1: one choice is not infinitely surprising
_MIN_USERS = 5  # users from whom an interval is made


@dataclass(frozen=True)
class Accuracy:
    """Share of a user's pairs that a model orders as the user did, averaged over users.

    Attributes:
        per_user: `[users]`; NaN for a user without pairs. A tie counts one half.
        mean: over users with pairs.
        low: lower end of the 95 % interval of the mean, from a bootstrap over users; NaN with fewer than five users,
            from whom nothing can be said about others.
        high: upper end.
        pairs: how many pairs it is from.
    """

    per_user: Tensor
    mean: float
    low: float
    high: float
    pairs: int

    @property
    def users(self) -> int:
        """Users with pairs."""
        return int(self.per_user.isfinite().sum())


@dataclass(frozen=True)
class Gain:
    """Mean difference of two models' accuracies over the same users, with its 95 % interval."""

    mean: float
    low: float
    high: float
    users: int


def margins(pairs: Pairs, basis: RewardBasis, users: UserWeights | Tensor) -> Tensor:
    """Reward of chosen minus reward of rejected, `[pairs]`, for `users` `[users, columns]` in the pairs' order."""
    weights = users.weights if isinstance(users, UserWeights) else users
    if pairs.dim != basis.dim:
        raise ShapeError(f"the pairs have {pairs.dim} numbers an embedding and the basis {basis.dim}; use one encoder")
    if weights.shape != (len(pairs.users), basis.columns):
        raise ShapeError(f"`users` must be [{len(pairs.users)}, {basis.columns}], got {tuple(weights.shape)}")
    projected, common = project_on(pairs, basis)
    return likelihood(pairs, "pairs", basis.temperature).margins(projected, weights.to(projected)) + common


def accuracy(pairs: Pairs, basis: RewardBasis, users: UserWeights | Tensor) -> Accuracy:
    """Accuracy of a model on some pairs.

    Args:
        pairs: held-out choices.
        basis: shared directions.
        users: weights, row by row in the order of `pairs.users`.

    Raises:
        ShapeError: the weights do not fit.
    """
    return accuracy_of_margins(pairs, margins(pairs, basis, users))


def correct(pairs: Pairs, margin: Tensor) -> Tensor:
    """Return 1 for margins `[pairs]` on the preferred side, 0 for others, and 1/2 for a tie of either; `[pairs]`.

    Preferred is chosen where the label is above 1/2, and rejected where it is below.
    """
    return (1 + margin.sign().double() * (pairs.label.double() - 1 / 2).sign()) / 2


def accuracy_of_margins(pairs: Pairs, margin: Tensor) -> Accuracy:
    """Return the accuracy of margins `[pairs]`."""
    right = correct(pairs, margin)
    total = torch.zeros(len(pairs.users), dtype=torch.float64, device=margin.device).index_add_(0, pairs.user, right)
    per_user = total / pairs.counts  # 0 / 0 is NaN: a user without pairs
    mean, low, high = interval(per_user)
    return Accuracy(per_user, mean, low, high, len(pairs))


def gain(model: Accuracy, baseline: Accuracy) -> Gain:
    """Return the accuracy of `model` less that of `baseline`, paired over users."""
    difference = model.per_user - baseline.per_user
    return Gain(*interval(difference), users=int(difference.isfinite().sum()))


def interval(per_user: Tensor) -> tuple[float, float, float]:
    """Mean over users and its 95 % interval; the same resamples for the same number of users.

    The percentile interval, wider for few users, so that it covers as Student's t does (Hesterberg 2015, section 4.4).
    """
    values = per_user[per_user.isfinite()].cpu().numpy()
    if len(values) < _MIN_USERS:
        return float(values.mean()) if len(values) else math.nan, math.nan, math.nan
    rng = np.random.default_rng(0)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(_RESAMPLES)]
    tail = _tail(len(values))
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(values.mean()), float(low), float(high)


def _tail(users: int) -> float:
    """Return the share that a percentile interval leaves out on each side."""
    return float(ndtr(-stdtrit(users - 1, 0.975) * math.sqrt(users / (users - 1))))


def log_likelihood(pairs: Pairs, probability: Tensor) -> Tensor:
    """Log-likelihood of each judgement, `[pairs]` in float64 and finite, from P(chosen preferred) `[pairs]`."""
    label, probability = pairs.label.double(), probability.double().clamp(_CERTAIN, 1 - _CERTAIN)
    return torch.special.xlogy(label, probability) + torch.special.xlog1py(1 - label, -probability)


def log_loss(pairs: Pairs, basis: RewardBasis, users: UserWeights | Tensor) -> float:
    """Mean negative log-likelihood of the choices, averaged over users."""
    return log_loss_of_margins(pairs, margins(pairs, basis, users), basis.temperature)


def log_loss_of_margins(pairs: Pairs, margin: Tensor, temperature: float) -> float:
    """Return the log loss of margins `[pairs]`."""
    return float(likelihood(pairs, "users", temperature).loss(margin))
