"""The settings of the gaussian family, chosen by the log loss on held-out groups.

Each setting is searched along a grid, one after the other, from where the last one ended:

    initial_variance   how much users may differ at all
    tempering          power of the likelihood, and with it the number of EM iterations
    covariance_scale   factor of the covariance that was learned
    rank               number of tastes; fewer are preferred to more that predict about as well
    center_scale       length of the center: averaging over different users shrinks logistic coefficients (attenuation;
                       Zeger, Liang and Albert 1988), so that each user's direction is longer than the pooled one

If users compare the same few items, pairs are correlated and cross-validation over-estimates the variance of tastes. In
that case fixed defaults are kept unless held-out groups contradict them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from lore.fitting.checkpoint import Checkpoint
from lore.fitting.config import FitConfig
from lore.fitting.gaussian_model import GaussianModel, GaussianSettings
from lore.fitting.likelihood import likelihood
from lore.pairs.table import Pairs
from lore.solvers.gaussian_em import TasteCovariance
from lore.solvers.objective import Likelihood, moderated_margins

Value = TypeVar("Value", int, float)

# The grid of each setting, and where its search begins.
_VARIANCES = tuple(10 ** (half / 2) for half in range(-8, 5))
_FIRST_VARIANCE = 10**-1.5
_TEMPERINGS = (1.0, 2.0, 4.0)
_COVARIANCE_SCALES = (1.0, 0.5, 0.25)
_CENTER_SCALES = tuple(1.25**step for step in range(6))
RANKS = (1, 2, 3, 4, 6, 8, 10, 12, 16)
_FIRST_RANK = 8

_MAX_ITERATIONS = 60  # of expectation-maximization
_PATIENCE = 2  # iterations without a better loss after which no more are tried
MIN_STEP_GAIN = 1e-4  # nats by which a later iteration has to be better
SEARCH_TOLERANCE = 1e-4  # gap of a user's objective at which losses are compared

# Without tastes, and what does well on average for items that are shared (docs/results.md).
_NO_TASTES = GaussianSettings(
    rank=0,
    tempering=1.0,
    initial_variance=0.0,
    em_iterations=0,
    covariance_scale=1.0,
    center_scale=1.0,
    validation=math.inf,
)
_SHARED_ITEMS = GaussianSettings(
    rank=_FIRST_RANK,
    tempering=4.0,
    initial_variance=0.01,
    em_iterations=8,
    covariance_scale=0.5,
    center_scale=1.0,
    validation=math.inf,
)


# --- the number of tastes -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RankRule:
    """A rule for the number of tastes, from losses on held-out groups; all numbers are in nats.

    Attributes:
        min_gain: by which more tastes have to be better to be tried on, and to be preferred.
        stop_loss: above the lowest loss at which no fewer tastes are tried.
        keeps_first: keep the first number unless another is better by `min_gain`; else take the smallest number within
            `min_gain` of the best.
    """

    min_gain: float
    stop_loss: float
    keeps_first: bool


# Losses of held-out groups differ by about 1e-4 nats between seeds; a default is overridden at twice that.
RULE = RankRule(min_gain=1e-4, stop_loss=1e-3, keeps_first=False)
SHARED_RULE = RankRule(min_gain=2e-4, stop_loss=0.0, keeps_first=True)


def rank_losses(first: int, ranks: Sequence[int], loss: Callable[[int], float], rule: RankRule) -> dict[int, float]:
    """Return losses by rank: of `first`, of higher ranks while they gain, and of lower ones while they lose little.

    Args:
        first: the rank to begin with, which may be above all `ranks`.
        ranks: admissible ones, in rising order.
        loss: of a rank.
        rule: when to stop.
    """
    losses = {first: loss(first)}
    last = losses[first]
    for rank in [rank for rank in ranks if rank > first]:
        losses[rank] = loss(rank)
        if losses[rank] > last - rule.min_gain:
            break
        last = losses[rank]
    lowest = min(losses.values())
    for rank in [rank for rank in ranks if rank < first][::-1]:
        losses[rank] = loss(rank)
        if losses[rank] > lowest + rule.stop_loss:
            break
    return losses


def chosen_rank(first: int, losses: dict[int, float], without_tastes: float, rule: RankRule) -> int:
    """Return the number of tastes to learn; 0 if none predict about as well.

    Args:
        first: the rank that the search began with.
        losses: by rank.
        without_tastes: the loss of rank 0.
        rule: what is preferred.
    """
    best = min(losses, key=losses.__getitem__)
    if rule.keeps_first:
        preferred = best if losses[best] <= losses[first] - rule.min_gain else first
        return 0 if without_tastes <= losses[preferred] - rule.min_gain else preferred
    sufficient = min(rank for rank, loss in losses.items() if loss <= losses[best] + rule.min_gain)
    return 0 if without_tastes <= losses[sufficient] + rule.min_gain else sufficient


# --- the search ---------------------------------------------------------------------------------------------------


def hill_climb(grid: Sequence[Value], begin: Value, loss: Callable[[Value], float]) -> dict[Value, float]:
    """Return losses along a grid, from one value to either side for as long as they fall."""
    index = grid.index(begin)
    losses = {begin: loss(begin)}
    for side in (grid[index + 1 :], grid[:index][::-1]):
        last = losses[begin]
        for value in side:
            losses[value] = loss(value)
            if losses[value] >= last:
                break
            last = losses[value]
    return losses


def search_along(
    settings: GaussianSettings,
    field: str,
    grid: Sequence[float],
    validate: Callable[[GaussianSettings], GaussianSettings],
) -> GaussianSettings:
    """Return the best settings along the grid of one field, which begins at its present value."""
    tried: dict[float, GaussianSettings] = {}

    def loss(value: float) -> float:
        tried[value] = validate(replace(settings, **{field: value}))  # type: ignore[arg-type]
        return tried[value].validation

    hill_climb(grid, getattr(settings, field), loss)
    return min(tried.values(), key=_validation)


def _validation(settings: GaussianSettings) -> float:
    return settings.validation


@dataclass
class ValidationFold:
    """The model of the training part of a fold, and the fold's held-out pairs.

    Attributes:
        model: of the training part.
        table: likelihood of the held-out pairs.
        projected: their differences of features, `[pairs, features]`.
        offset: their margins of the center, `[pairs]`.
        tastes: each user's deviation from the center at the last loss, `[users, features]`; None before the first.
    """

    model: GaussianModel
    table: Likelihood
    projected: Tensor
    offset: Tensor
    tastes: Tensor | None = None

    @classmethod
    def of(cls, model: GaussianModel, held_out: Pairs) -> "ValidationFold":
        """Project the held-out pairs."""
        table = likelihood(held_out, model.config.average, model.config.temperature)
        return cls(model, table, table.project(model.features), table.project(model.center[:, None]).squeeze(1))

    def with_center_scale(self, scale: float) -> "ValidationFold":
        """Return the same fold around a center multiplied by a number."""
        return replace(self, model=self.model.with_center_scale(scale), offset=scale * self.offset)

    def loss(self, covariance: TasteCovariance) -> float:
        """Return the held-out log loss, marginalized over each user's posterior; warm-started from the last call."""
        start = None
        if self.tastes is not None and covariance.variance > 0:
            start = torch.linalg.solve(covariance.root, self.tastes.T).T
        weights = self.model.posterior(covariance, SEARCH_TOLERANCE, start).weights
        self.tastes = weights @ covariance.root.T
        margins = self.table.margins(self.projected, self.tastes.to(self.projected)) + self.offset
        targets = self.projected @ covariance.root.to(self.projected)
        variances = self.model.variances(covariance, weights, targets, self.table.user)
        return float(self.table.loss(moderated_margins(margins, variances, self.model.config.temperature)))


class GaussianSearch:
    """Chooses settings by the mean log loss over folds."""

    def __init__(self, folds: Sequence[ValidationFold], config: FitConfig, checkpoint: Checkpoint) -> None:
        """Take the folds; what the checkpoint has is not computed again."""
        self._folds, self._config, self._checkpoint = folds, config, checkpoint
        self._learned: dict[tuple[int, float, float], list[TasteCovariance]] = {}

    def settings(self) -> GaussianSettings:
        """Return the settings that predict held-out groups best, among those that the configuration leaves open."""
        without_tastes = self._validated(_NO_TASTES)
        rank = _FIRST_RANK if self._config.rank == "auto" else self._config.rank
        shares_items = all(fold.model.shares_items for fold in self._folds)
        if rank > 0 and shares_items:
            return self._for_shared_items(rank, without_tastes)
        isotropic = replace(_NO_TASTES, initial_variance=_FIRST_VARIANCE)
        isotropic = search_along(isotropic, "initial_variance", _VARIANCES, self._with_isotropic)
        without_rank = min(without_tastes, isotropic, key=_validation)
        best = without_rank if rank == 0 else self._with_tastes(rank, isotropic.initial_variance, without_rank)
        if best.initial_variance == 0 or shares_items:
            return best
        # At a scale of 1 the settings have been validated.
        return search_along(
            best, "center_scale", _CENTER_SCALES, lambda scaled: best if scaled == best else self._validated(scaled)
        )

    def _for_shared_items(self, rank: int, without_tastes: GaussianSettings) -> GaussianSettings:
        tempering = _SHARED_ITEMS.tempering if self._config.tempering == "auto" else self._config.tempering
        first = self._validated(replace(_SHARED_ITEMS, rank=rank, tempering=tempering))
        if self._config.rank != "auto":
            return min(without_tastes, first, key=_validation)
        return self._best_rank(
            first, without_tastes, lambda other: self._validated(replace(first, rank=other)), SHARED_RULE
        )

    def _with_tastes(self, rank: int, variance: float, without_rank: GaussianSettings) -> GaussianSettings:
        """Return settings with tastes if they predict better than without a rank."""
        temperings = _TEMPERINGS if self._config.tempering == "auto" else (self._config.tempering,)
        first = replace(_NO_TASTES, rank=rank, initial_variance=variance, tempering=temperings[0])
        first = self._scaled(search_along(first, "tempering", temperings, self._with_best_iterations))
        if self._config.rank != "auto":
            return min(without_rank, first, key=_validation)

        def of_rank(other: int) -> GaussianSettings:
            begun = replace(_NO_TASTES, rank=other, initial_variance=variance, tempering=first.tempering)
            return self._scaled(self._with_best_iterations(begun))

        return self._best_rank(first, without_rank, of_rank, RULE)

    def _best_rank(
        self,
        first: GaussianSettings,
        without_rank: GaussianSettings,
        of_rank: Callable[[int], GaussianSettings],
        rule: RankRule,
    ) -> GaussianSettings:
        tried = {first.rank: first}

        def loss(rank: int) -> float:
            if rank not in tried:
                tried[rank] = of_rank(rank)
            return tried[rank].validation

        max_rank = min(fold.model.max_rank for fold in self._folds)
        losses = rank_losses(first.rank, [rank for rank in RANKS if rank <= max_rank], loss, rule)
        best = chosen_rank(first.rank, losses, without_rank.validation, rule)
        return without_rank if best == 0 else tried[best]

    # --- losses of settings -----------------------------------------------------------------------------------

    def _stored(self, settings: GaussianSettings, compute: Callable[[], float]) -> GaussianSettings:
        """Return the settings with their validation, from the checkpoint or computed now."""
        return replace(settings, validation=self._checkpoint.number(_name(settings), compute))

    def _validated(self, settings: GaussianSettings) -> GaussianSettings:
        """Return the settings with their validation, the covariance learned around the center that they give."""

        def loss() -> float:
            folds = [fold.with_center_scale(settings.center_scale) for fold in self._folds]
            return float(np.mean([fold.loss(fold.model.covariance(settings)) for fold in folds]))

        return self._stored(settings, loss)

    def _with_isotropic(self, settings: GaussianSettings) -> GaussianSettings:
        variance = settings.initial_variance
        return self._stored(settings, lambda: self._loss([fold.model.isotropic(variance) for fold in self._folds]))

    def _scaled(self, settings: GaussianSettings) -> GaussianSettings:
        """Return the settings with the best scale of the covariances that they lead to."""
        covariances = self._learned[settings.rank, settings.tempering, settings.initial_variance]

        def validate(scaled: GaussianSettings) -> GaussianSettings:
            return self._stored(
                scaled, lambda: self._loss([one.scaled(scaled.covariance_scale) for one in covariances])
            )

        return search_along(settings, "covariance_scale", _COVARIANCE_SCALES, validate)

    def _with_best_iterations(self, settings: GaussianSettings) -> GaussianSettings:
        """Return the settings with the best number of iterations; the covariances there are remembered."""
        key = (settings.rank, settings.tempering, settings.initial_variance)
        name = f"EM of rank {key[0]}, tempering {key[1]!r}, variance {key[2]!r}"
        stored = self._checkpoint.tensors
        if f"{name}, fold 0" in stored:
            self._learned[key] = [
                TasteCovariance(stored[f"{name}, fold {fold}"], 0.0) for fold in range(len(self._folds))
            ]
            numbers = self._checkpoint.numbers
            return replace(
                settings, em_iterations=int(numbers[f"{name}: iterations"]), validation=numbers[f"{name}: validation"]
            )
        best = self._climb_iterations(settings, key)
        self._checkpoint.numbers |= {
            f"{name}: iterations": best.em_iterations,
            f"{name}: validation": best.validation,
        }
        self._checkpoint.keep({f"{name}, fold {fold}": one.root for fold, one in enumerate(self._learned[key])})
        return best

    def _climb_iterations(self, settings: GaussianSettings, key: tuple[int, float, float]) -> GaussianSettings:
        paths = [fold.model.covariance_path(*key) for fold in self._folds]
        best = replace(settings, em_iterations=0, validation=math.inf)
        self._learned[key] = [fold.model.isotropic(settings.initial_variance) for fold in self._folds]
        last_gain = 0
        for iteration, covariances in enumerate(zip(*paths, strict=True), start=1):
            loss = self._loss(covariances)
            if loss < best.validation - MIN_STEP_GAIN:
                last_gain = iteration
            if loss < best.validation:
                best = replace(best, em_iterations=iteration, validation=loss)
                self._learned[key] = list(covariances)
            if iteration == _MAX_ITERATIONS or iteration - last_gain >= _PATIENCE:
                break
        return best

    def _loss(self, covariances: Sequence[TasteCovariance]) -> float:
        losses = [fold.loss(covariance) for fold, covariance in zip(self._folds, covariances, strict=True)]
        return float(np.mean(losses))


def _name(settings: GaussianSettings) -> str:
    """Return the name under which a checkpoint keeps the held-out loss of settings."""
    return f"held-out loss of {replace(settings, validation=0.0)}"
