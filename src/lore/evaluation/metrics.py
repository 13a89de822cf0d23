"""Accuracy, gain and log loss, with intervals for new users and new prompts."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lore.errors import ShapeError
from lore.evaluation.intervals import LEVEL, Interval, Sample, anytime_factor
from lore.exports import compact_repr
from lore.fitting.basis import RewardBasis
from lore.fitting.likelihood import likelihood
from lore.fitting.personalize import UserWeights, project_on
from lore.pairs.table import Pairs

_CERTAIN = 1e-12  # probabilities are kept this far from 0 and 1: one choice is not infinitely surprising


@dataclass(frozen=True, repr=False)
class Accuracy:
    """Share of a user's pairs that a model orders as the user did, averaged over users.

    Users count by the number of their pairs, as `lore.evaluation.intervals.Sample` says. A tie of rewards, or a
    judgement that prefers neither, counts one half; the weight of a pair does not matter.

    Attributes:
        per_user: `[users]`; NaN for a user without pairs.
        mean: over the users who are counted.
        low: lower end of the 95 % interval of the mean for new users and new prompts; NaN with fewer than five users.
        high: upper end.
        pairs: how many pairs it is from.
        users: users who are counted.
        left_out: users who have pairs, but too few.
        equal: the mean in which each user counts alike.
        these_prompts: interval of the mean for new users and the prompts that were tested.
        right: 1 where a pair is ordered rightly, 1/2 for a tie, `[pairs]`.
        sample: what each pair counts.
    """

    per_user: Tensor
    mean: float
    low: float
    high: float
    pairs: int
    users: int
    left_out: int
    equal: float
    these_prompts: Interval
    right: Tensor = field(repr=False)
    sample: Sample = field(repr=False)

    __repr__ = compact_repr


@dataclass(frozen=True)
class Gain:
    """Mean difference of two models' accuracies over the same pairs, with its intervals.

    Attributes:
        mean: over users, who count as in `Accuracy`.
        low: lower end of the interval for new users and new prompts.
        high: upper end.
        users: users who are counted.
        equal: the mean in which each user counts alike.
        these_prompts: the interval for new users and the prompts that were tested.
    """

    mean: float
    low: float
    high: float
    users: int
    equal: float
    these_prompts: Interval


def margins(pairs: Pairs, basis: RewardBasis, users: UserWeights | Tensor) -> Tensor:
    """Reward of chosen minus reward of rejected, `[pairs]`, for `users` `[users, columns]` in the pairs' order."""
    return ProjectedPairs(pairs, basis).margins(users)


class ProjectedPairs:
    """Pairs in coordinates of a basis, from one pass over the embeddings, for the weights of several models."""

    def __init__(self, pairs: Pairs, basis: RewardBasis) -> None:
        """Project the pairs.

        Raises:
            ShapeError: pairs and basis are of different embeddings.
        """
        if pairs.dim != basis.dim:
            raise ShapeError(
                f"the pairs have {pairs.dim} numbers an embedding and the basis {basis.dim}; use one encoder"
            )
        self._shape = (len(pairs.users), basis.columns)
        self._projected, self._common = project_on(pairs, basis)
        self._likelihood = likelihood(pairs, "pairs", basis.temperature)

    def margins(self, users: UserWeights | Tensor) -> Tensor:
        """Reward of chosen minus reward of rejected, `[pairs]`, for weights `[users, columns]`."""
        weights = users.weights if isinstance(users, UserWeights) else users
        if weights.shape != self._shape:
            raise ShapeError(f"`users` must be {list(self._shape)}, got {tuple(weights.shape)}")
        return self._likelihood.margins(self._projected, weights.to(self._projected)) + self._common


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


def accuracy_of_margins(pairs: Pairs, margin: Tensor, sample: Sample | None = None) -> Accuracy:
    """Return the accuracy of margins `[pairs]`."""
    return accuracy_of_right(correct(pairs, margin), sample or Sample(pairs))


def accuracy_of_right(right: Tensor, sample: Sample) -> Accuracy:
    """Return the accuracy of a model that has the pairs of a sample right so far as `right` `[pairs]` says."""
    estimate = sample.estimate(right)
    new = estimate.new_prompts.within(0.0, 1.0)
    return Accuracy(
        per_user=torch.from_numpy(sample.per_user(right)),
        mean=min(max(estimate.mean, 0.0), 1.0),  # without rounding
        low=new.low,
        high=new.high,
        pairs=len(right),
        users=sample.users,
        left_out=sample.left_out,
        equal=estimate.equal,
        these_prompts=estimate.these_prompts.within(0.0, 1.0),
        right=right,
        sample=sample,
    )


def gain(model: Accuracy, baseline: Accuracy, level: float = LEVEL) -> Gain:
    """Return the accuracy of `model` less that of `baseline` on the same pairs, with intervals of a level."""
    sample = model.sample
    estimate = sample.estimate(model.right - baseline.right, level)
    new, these = (one.within(-1.0, 1.0) for one in (estimate.new_prompts, estimate.these_prompts))
    return Gain(estimate.mean, new.low, new.high, sample.users, estimate.equal, these)


def anytime_gain(model: Accuracy, baseline: Accuracy) -> Gain:
    """Return `gain` with 95 % intervals that hold at every look at a comparison that goes on (`anytime_factor`)."""
    measured, factor = gain(model, baseline), anytime_factor(len(model.right))

    def widened(low: float, high: float) -> Interval:
        return Interval(measured.mean - factor * (measured.mean - low), measured.mean + factor * (high - measured.mean))

    new = widened(measured.low, measured.high)
    these = widened(measured.these_prompts.low, measured.these_prompts.high)
    return replace(measured, low=new.low, high=new.high, these_prompts=these)


def reachable(pairs: Pairs) -> Tensor:
    """Return how far each pair can be had right at most, `[pairs]`: what a model of rewards cannot pass.

    A judgement that prefers neither is half right whatever is predicted, and of a user's contradicting choices between
    two responses the more frequent one can be right.
    """
    towards = (pairs.label.double() - 1 / 2).sign()
    if pairs.rejected is None or len(pairs) == 0:
        return (1 + towards.abs()) / 2
    first, second = torch.minimum(pairs.chosen, pairs.rejected), torch.maximum(pairs.chosen, pairs.rejected)
    towards = torch.where(pairs.chosen == first, towards, -towards)
    cells, number = torch.unique(torch.stack([pairs.user, first, second]), dim=1, return_inverse=True)
    total = towards.new_zeros(cells.shape[1]).index_add_(0, number, towards)
    return (1 + towards * total.sign()[number]) / 2


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
