"""Validation: folds, the pooled direction and strengths, which all fits of some pairs share.

`strength="auto"` and `weight_strength="auto"` are chosen by the log loss on held-out groups of the pairs.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lore.errors import ConfigError, DataError
from lore.fitting.checkpoint import Checkpoint, loss_name
from lore.fitting.config import FitConfig
from lore.fitting.likelihood import likelihood, spectrum_of
from lore.fitting.simplex_descent import SimplexDescent, StartPlan, descend, starting_bases
from lore.fitting.simplex_problem import Regularization, Request, SimplexProblem, solve_many
from lore.pairs.table import Pairs
from lore.solvers.objective import Average
from lore.solvers.preconditioners import Spectrum

# Strengths of the distance penalty that are tried, in units of `FitData.unit`, for one direction and for several.
_POOLED_STRENGTHS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
_STRENGTHS = (3e-3, 1e-3, 3e-4, 1e-4)
_WEIGHT_STRENGTHS = (0.03, 0.01, 0.003, 0.001)
_POOLED_ONLY = 1e3  # a strength, in the same units, at which all columns are the pooled direction
_MIN_STRENGTH = 1e-4  # least strength, in the same units, of the pooled direction that columns start around
_FOLDS = 3
_SAMPLE = 4_096  # pairs that the scale is estimated from
# Candidates are ranked by fits of a tenth of the accuracy, which are cut off after some steps.
_ROUGH, _ROUGH_ITERATIONS = 10, 40


@dataclass(frozen=True)
class Fold:
    """Training and held-out pairs of one fold.

    Attributes:
        pairs: to learn from.
        held_out: to measure on.
    """

    pairs: Pairs
    held_out: Pairs

    @cached_property
    def spectrum(self) -> Spectrum:
        """Spectrum of the differences of the training pairs."""
        return spectrum_of(self.pairs, seed=0)


@dataclass(frozen=True)
class Pooled:
    """The validated pooled direction: on all pairs, and on the training part of each fold.

    Attributes:
        strength: that predicted held-out groups best.
        validation: log loss on held-out groups.
        direction: on all pairs, `[dim]`.
        of_folds: on the training part of each fold, `[dim]` each.
    """

    strength: float
    validation: float
    direction: Tensor
    of_folds: list[Tensor]


class FitData:
    """The pairs of one or several fits, and what these share.

    Attributes:
        pairs: to learn from.
        reference: direction that columns are drawn to, `[dim]`, or None.
    """

    def __init__(self, pairs: Pairs, reference: Tensor | None) -> None:
        self.pairs = pairs
        self.reference = reference
        self._scale = _mean_squared_difference(pairs)
        self._folds: dict[int, list[Fold]] = {}
        self._pooled: dict[tuple[Average, float, int], Pooled] = {}

    @cached_property
    def spectrum(self) -> Spectrum:
        """Spectrum of the pairs' differences."""
        return spectrum_of(self.pairs, seed=0)

    def unit(self, config: FitConfig) -> float:
        """Return the unit of strengths of the distance penalty.

        With it neither the length of the embeddings nor the temperature matters: the mean squared length of a
        difference, over the squared temperature.
        """
        return self._scale / config.temperature**2

    def folds(self, seed: int) -> list[Fold]:
        """Return training and held-out pairs by group, without shared responses; a pair that straddles is in neither.

        Raises:
            ConfigError: there are fewer than two groups, or no pairs within held-out ones.
        """
        if seed not in self._folds:
            self._folds[seed] = _folds(self.pairs, seed)
        return self._folds[seed]

    def pooled(self, config: FitConfig, checkpoint: Checkpoint) -> Pooled:
        """Return the pooled direction at the strength that predicts held-out groups best."""
        key = (config.average, config.temperature, config.seed)
        if key not in self._pooled:
            pooled = replace(config, rank=1, penalty="distance")
            self._pooled[key] = _stored_pooled(checkpoint, self.pairs.empty) or _validated_pooled(
                self, pooled, checkpoint
            )
        return self._pooled[key]

    def regularization(
        self, config: FitConfig, strength: float, weight_strength: float, anchor: Tensor | None
    ) -> Regularization:
        """Return the regularization toward an anchor, or toward zero if there is none."""
        toward = self.pairs.empty.new_zeros(self.pairs.dim) if anchor is None else anchor
        return Regularization(toward, strength, config.penalty, weight_strength)


def fit_pooled(
    data: FitData, part: FitData | Fold, config: FitConfig, strength: float, start: Tensor | None = None
) -> Tensor:
    """Fit one direction for all users to the pairs of a part.

    Args:
        data: all pairs.
        part: these, or one fold of them.
        config: how to fit; its rank and penalty are ignored.
        strength: of the distance penalty.
        start: `[dim, 1]`; the reference, or zero, by default.

    Returns:
        `[dim, 1]`.
    """
    pooled = replace(config, rank=1, penalty="distance", weight_strength=0.0)
    regularization = data.regularization(pooled, strength, 0.0, data.reference)
    problem = SimplexProblem.of(part.pairs, 1, config.average, config.temperature, regularization)
    begin = regularization.reference[:, None].clone() if start is None else start
    descent = SimplexDescent(problem, [begin], part.spectrum, config.tolerance, config.max_iterations)
    descend([descent])
    return descent.result.point


def start_around(data: FitData, part: FitData | Fold, config: FitConfig, strength: float) -> Tensor:
    """Return the direction `[dim]` that columns start around if there is no reference: the pooled one."""
    return fit_pooled(data, part, config, max(strength, _MIN_STRENGTH * data.unit(config))).squeeze(1)


@dataclass(frozen=True)
class TunedStrengths:
    """Strengths that held-out groups chose, and the log loss there."""

    strength: float
    weight_strength: float
    validation: float


def tuned_strengths(data: FitData, config: FitConfig, checkpoint: Checkpoint, prefix: str) -> TunedStrengths:
    """Choose the strengths that are "auto": the shrinkage of weights first, then the penalty, each along a path.

    Args:
        data: the pairs.
        config: of a fixed rank.
        checkpoint: of the fit; losses that it has are not computed again.
        prefix: of names in the checkpoint.
    """
    is_distance = config.penalty == "distance"
    strengths = [relative * (data.unit(config) if is_distance else 1.0) for relative in _STRENGTHS]
    if config.strength != "auto":
        strengths = [config.strength]
    shrinkages = [config.weight_strength] if config.weight_strength != "auto" else list(_WEIGHT_STRENGTHS)
    losses: dict[tuple[float, float], float] = {}

    def evaluate(strength: float, weight_strength: float) -> float:
        losses[strength, weight_strength] = checkpoint.number(
            prefix + loss_name(strength, weight_strength),
            lambda: held_out_loss(data, config, strength, weight_strength, checkpoint),
        )
        return losses[strength, weight_strength]

    first = len(strengths) // 3
    for weight_strength in shrinkages:
        if evaluate(strengths[first], weight_strength) > min(losses.values()):
            break  # weaker shrinkage only gets worse from here
    shrinkage = min(losses, key=losses.__getitem__)[1]
    if config.strength == "auto" and is_distance and data.reference is None:
        losses[_POOLED_ONLY * data.unit(config), shrinkage] = data.pooled(config, checkpoint).validation
    weaker, stronger = strengths[first + 1 :], strengths[:first][::-1]
    for path in (weaker, stronger):
        last = losses[strengths[first], shrinkage]
        for strength in path:
            if evaluate(strength, shrinkage) > last:
                break
            last = losses[strength, shrinkage]
    best = min(losses, key=losses.__getitem__)
    return TunedStrengths(*best, losses[best])


def held_out_loss(
    data: FitData, config: FitConfig, strength: float, weight_strength: float, checkpoint: Checkpoint
) -> float:
    """Return the log loss on held-out groups of fits to the other groups.

    Equal weights are the population here: they suffice to rank candidates.
    """
    config = replace(config, tolerance=_ROUGH * config.tolerance, max_iterations=_ROUGH_ITERATIONS)
    losses = []
    to_pooled = data.reference is None and config.penalty == "distance" and config.strength == "auto"
    anchors = data.pooled(config, checkpoint).of_folds if to_pooled else None
    for number, fold in enumerate(data.folds(config.seed)):
        anchor = data.reference if anchors is None else anchors[number]
        regularization = data.regularization(config, strength, weight_strength, anchor)
        if anchor is None:
            anchor = start_around(data, fold, config, strength)
        losses.append(_fold_loss(fold, config, regularization, anchor))
    return float(np.mean(losses))


def _fold_loss(fold: Fold, config: FitConfig, regularization: Regularization, anchor: Tensor) -> float:
    problem = SimplexProblem.of(fold.pairs, config.fixed_rank, config.average, config.temperature, regularization)
    starts = starting_bases([StartPlan(problem, anchor, config.seed, distances=(1.0,))])[0]
    descent = SimplexDescent(problem, starts, fold.spectrum, config.tolerance, config.max_iterations)
    descend([descent])
    basis = descent.result.point
    weights = solve_many([Request(problem, basis, descent.state)])[0].weights.to(basis)
    table = likelihood(fold.held_out, config.average, config.temperature)
    return float(table.loss(table.margins(table.project(basis), weights)))


# --- the pooled direction -----------------------------------------------------------------------------------------


def _validated_pooled(data: FitData, config: FitConfig, checkpoint: Checkpoint) -> Pooled:
    """Fit one direction at falling strengths, each fit warm from the last, for as long as held-out groups gain."""
    folds = data.folds(config.seed)
    tables = [likelihood(fold.held_out, config.average, config.temperature) for fold in folds]
    starts: list[Tensor | None] = [None] * len(folds)
    means: list[float] = []
    of_folds: list[list[Tensor]] = []
    for relative in _POOLED_STRENGTHS:
        strength = relative * data.unit(config)
        fits = [fit_pooled(data, fold, config, strength, start) for fold, start in zip(folds, starts, strict=True)]
        losses = [
            table.loss(table.margins(table.project(fit), fit.new_ones(len(fold.pairs.users), 1)))
            for table, fit, fold in zip(tables, fits, folds, strict=True)
        ]
        means.append(float(torch.stack(losses).mean()))
        of_folds.append([fit.squeeze(1) for fit in fits])
        starts = list(fits)
        if means[-1] > min(means) and means[-2] > min(means):
            break  # two in a row that are worse: weaker ones only overfit more
    best = int(np.argmin(means))
    strength = _POOLED_STRENGTHS[best] * data.unit(config)
    direction = fit_pooled(data, data, config, strength).squeeze(1)
    pooled = Pooled(strength, means[best], direction, of_folds[best])
    _store_pooled(pooled, checkpoint)
    return pooled


def _store_pooled(pooled: Pooled, checkpoint: Checkpoint) -> None:
    checkpoint.numbers |= {"pooled strength": pooled.strength, "pooled validation": pooled.validation}
    checkpoint.keep({"pooled": pooled.direction, "pooled of folds": torch.stack(pooled.of_folds)})


def _stored_pooled(checkpoint: Checkpoint, like: Tensor) -> Pooled | None:
    if "pooled" not in checkpoint.tensors:
        return None
    return Pooled(
        strength=checkpoint.numbers["pooled strength"],
        validation=checkpoint.numbers["pooled validation"],
        direction=checkpoint.tensors["pooled"].to(like),
        of_folds=list(checkpoint.tensors["pooled of folds"].to(like)),
    )


# --- folds --------------------------------------------------------------------------------------------------------


def _mean_squared_difference(pairs: Pairs) -> float:
    """Return the mean squared length of a difference, over a sample of the pairs.

    Raises:
        DataError: all differences are zero, or one is not finite.
    """
    mean = float(pairs.sample(_SAMPLE).differences().double().square().sum(1).mean())
    if not math.isfinite(mean):
        raise DataError("embeddings hold values that are not finite; embed again, or leave those responses out")
    if mean == 0:
        raise DataError(
            "chosen and rejected have the same embedding in every pair; use an encoder that tells them apart"
        )
    return mean


def _folds(pairs: Pairs, seed: int) -> list[Fold]:
    groups, number = pairs.group.unique(return_inverse=True)
    if len(groups) < 2:
        raise ConfigError(
            f"'auto' is chosen by held-out groups (prompts, or items) and needs two, got {len(groups)}; add groups (in "
            "Python the simplex family's `strength` and `weight_strength` can be numbers)"
        )
    count = min(_FOLDS, len(groups))
    assigned = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)) % count
    fold_of_row = assigned.to(number.device)[number]
    shares = (1 - 1 / count, 1 / count)  # so that an item is in as many pairs as among all
    folds = []
    for fold in range(count):
        train, held_out = pairs.split_by_rows(fold_of_row == fold, stream=3 + 2 * fold, shares=shares)
        if len(train) and len(held_out):
            folds.append(Fold(train.compact(), held_out.compact()))
    if not folds:
        raise ConfigError(
            "there are no pairs within held-out groups to choose by; add comparisons, or for the simplex family give "
            "`strength` and `weight_strength` as numbers"
        )
    return folds
