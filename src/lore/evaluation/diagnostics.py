"""Diagnostics: collapse of a basis, and the gain that more comparisons would bring."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lore.evaluation.intervals import MIN_USERS
from lore.fitting.config import Fit
from lore.pairs.table import Pairs
from lore.solvers import simplex

_RESAMPLES = 500
_SAMPLE = 4_096  # pairs on which rewards are compared
_TASTE = 1e-2  # users' part of rewards, relative to the common one, below which it changes hardly a prediction
_HALVES = tuple(2 ** (step / 4) for step in range(-8, 49))  # comparisons at which half of what can be gained is


@dataclass(frozen=True)
class Collapse:
    """Measures of how many directions a fit uses.

    Attributes:
        effective_rank: directions along which users' rewards differ, `exp(entropy)` of the shares of their variance
            (Roy and Vetterli 2007); 0 if all users have the same weights.
        largest_cosine: between two directions, each less what all share (simplex: the population's); 0 for one.
        weight_entropy: mean entropy of users' weights over that of equal weights (simplex): 1 if every user has equal
            weights, 0 if every user has one direction. None for the gaussian family.
    """

    effective_rank: float
    largest_cosine: float
    weight_entropy: float | None


def collapse(fit: Fit, pairs: Pairs) -> Collapse:
    """Diagnostics of a fit, rewards being those of the differences in `pairs`."""
    basis = fit.basis
    differences = pairs.sample(_SAMPLE).differences().double()
    weights = fit.weights.double().cpu()
    along = (differences @ basis.vectors.double().to(differences)).cpu()
    spread = torch.linalg.svdvals(along @ torch.linalg.qr(weights - weights.mean(0)).R.T)
    share = spread.square() / spread.square().sum().clamp(min=torch.finfo(torch.float64).tiny)
    effective = float(torch.exp(-torch.special.xlogy(share, share).sum())) if float(share.sum()) > 0.5 else 0.0
    common = along @ basis.population.double().cpu() if basis.family == "simplex" else torch.zeros_like(along[:, 0])
    directions = torch.nn.functional.normalize(along - common[:, None], dim=0)[:, : max(basis.rank, 1)]
    cosines = (directions.T @ directions).abs().fill_diagonal_(0.0)
    entropy = None
    if basis.family == "simplex" and basis.columns > 1:
        entropy = float(simplex.entropy(weights).mean()) / math.log(basis.columns)
    return Collapse(effective, float(cosines.max()) if basis.columns > 1 else 0.0, entropy)


def has_tastes(fit: Fit, pairs: Pairs) -> bool:
    """Return True if users' rewards differ by more than a hundredth of what they have in common."""
    differences = pairs.sample(_SAMPLE).differences().double()
    basis, weights = fit.basis, fit.weights.double().to(differences.device)
    along = differences @ basis.vectors.double().to(differences)
    common = along @ weights.mean(0) + differences @ basis.center.double().to(differences)
    centered = weights - weights.mean(0)
    # Mean over users of the squared rewards of `along @ centered.T`, which is not formed.
    personal = torch.einsum("pi,ij,pj->", along, centered.T @ centered, along) / len(weights)
    return bool(personal > _TASTE**2 * common.square().sum())


@dataclass(frozen=True)
class LearningCurve:
    """A curve of the gain by comparisons, `gain(n) = max_gain · n / (n + half)`, and its value at twice as many.

    The form is that of one normal mean learned from n noisy looks at it.

    Attributes:
        max_gain: gain in accuracy over the model for all that is approached.
        half: comparisons at which half of it is reached.
        shots: twice the most comparisons measured, or twice those of the median user (report).
        gain: predicted there.
        low: lower end of its 95 % interval, from a bootstrap over users.
        high: upper end.
    """

    max_gain: float
    half: float
    shots: int
    gain: float
    low: float
    high: float


def learning_curve(by_shots: Mapping[int, Tensor]) -> LearningCurve | None:
    """Fit a curve to users' gains after some numbers of comparisons.

    Args:
        by_shots: gain of each user after a number of comparisons, `[users]`, of the same users for all numbers.

    Returns:
        None with fewer than three numbers or five users.
    """
    counts = np.array(sorted(by_shots), dtype=float)
    if len(counts) < 3 or len(by_shots[int(counts[0])]) < MIN_USERS:
        return None
    gains = torch.stack([by_shots[int(count)] for count in counts]).numpy()
    rng = np.random.default_rng(0)
    users = gains.shape[1]
    max_gain, half = _curve(counts, gains.mean(axis=1))
    shots = 2 * counts[-1]
    drawn = (_curve(counts, gains[:, rng.integers(users, size=users)].mean(axis=1)) for _ in range(_RESAMPLES))
    predicted = [top * shots / (shots + middle) for top, middle in drawn]
    low, high = np.quantile(predicted, [0.025, 0.975])
    return LearningCurve(max_gain, half, int(shots), max_gain * shots / (shots + half), float(low), float(high))


def _curve(counts: np.ndarray, gains: np.ndarray) -> tuple[float, float]:
    """Least squares over a ladder of halves: for each, the best height is one division."""
    shapes = counts / (counts + np.array(_HALVES)[:, None])
    heights = shapes @ gains / (shapes * shapes).sum(axis=1)
    errors = ((heights[:, None] * shapes - gains) ** 2).sum(axis=1)
    best = int(errors.argmin())
    return float(heights[best]), float(_HALVES[best])
