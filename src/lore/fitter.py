"""One set of pairs and all that fits of it share: folds, the pooled direction, the automatic strengths.

The basis is found by variable projection: at every step the users' weights are solved exactly on the projected pairs
(`rank` numbers each), and the basis takes a quasi-Newton step on what is left. `strength="auto"` and
`weight_strength="auto"` are chosen by the log loss on held-out groups of the pairs that are given.
"""

import math
import warnings
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lore.basis import RewardBasis, reference_basis
from lore.charts import Spectrum
from lore.checkpoint import Checkpoint
from lore.config import RANKS, Fit, FitConfig
from lore.descent import Minimum
from lore.errors import ConfigError, ConvergenceWarning, DataError
from lore.objective import Average, penalty
from lore.pairs import Pairs
from lore.problem import (
    STARTS,
    Job,
    Penalties,
    SimplexProblem,
    likelihood,
    spectrum_of,
    together,
)
from lore.tastes import TasteProblem, TasteSearch, taste_features

# Relative to the mean squared length of a difference, over the squared temperature.
_POOLED_STRENGTHS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
_STRENGTHS = (3e-3, 1e-3, 3e-4, 1e-4)
_WEIGHT_STRENGTHS = (0.03, 0.01, 0.003, 0.001)
_POOLED_ONLY = 1e3  # so strong that all columns are the pooled direction
_FOLDS = 3
_SAMPLE = 4_096
_BEGINNING, _ROUGH = 40, 10.0  # steps, and tolerance relative to the fit's, at which descents are compared


@dataclass(frozen=True)
class _Fold:
    pairs: Pairs
    held_out: Pairs

    @cached_property
    def spectrum(self) -> Spectrum:
        return spectrum_of(self.pairs, seed=0)


@dataclass(frozen=True)
class _Pooled:
    """The validated pooled direction: on all pairs, and on the training part of each fold."""

    strength: float
    validation: float
    direction: Tensor
    of_folds: list[Tensor]


class Fitter:
    """Fits configurations to one set of pairs and remembers what they share."""

    def __init__(self, pairs: Pairs, reference: Tensor | None) -> None:
        self.pairs = pairs
        self.reference = reference
        self._scale = _mean_squared_difference(pairs)
        self.table = likelihood(pairs, "users", 1.0)
        self._folds: dict[int, list[_Fold]] = {}
        self._pooled: dict[tuple[Average, float, int], _Pooled] = {}

    @cached_property
    def spectrum(self) -> Spectrum:
        """How far the differences spread."""
        return spectrum_of(self.pairs, seed=0)

    def _unit(self, config: FitConfig) -> float:
        """Of strengths of the distance penalty: neither the length of the embeddings nor the temperature matters."""
        return self._scale / config.temperature**2

    def fit(self, config: FitConfig, checkpoint: Checkpoint) -> Job[Fit]:
        """One fit, from where a checkpoint stands."""
        if config.rank == "auto" and config.family == "simplex":
            return (yield from self._fit_ranks(config))
        if config.family == "gaussian":
            return self._fit_gaussian(config)
        if config.rank == 0 and self.reference is not None:
            return self._reference(config, self.reference)
        weight_strength = 0.0 if config.fixed_rank == 1 else config.weight_strength
        strength, validation, anchor = config.strength, None, self.reference
        if strength == "auto" and config.penalty == "distance" and anchor is None and config.fixed_rank > 1:
            anchor = self.pooled(config).direction
        if strength == "auto" and config.penalty == "distance" and config.rank == 1:
            strength, validation = self.pooled(config).strength, self.pooled(config).validation
        if "auto" in (strength, weight_strength):
            strength, weight_strength, validation = self._tuned(
                replace(config, weight_strength=weight_strength), checkpoint
            )
        penalties = self._penalties(config, float(strength), float(weight_strength), anchor)
        return (yield from self._fit_simplex(config, penalties, validation, checkpoint))

    def _fit_ranks(self, config: FitConfig) -> Job[Fit]:
        """The fit of the rank that predicts held-out groups best: ranks rise for as long as they do so better."""
        best = yield from self.fit(replace(config, rank=1), Checkpoint(None, ""))
        for rank in (rank for rank in RANKS if rank <= self.pairs.dim):
            found = yield from self.fit(replace(config, rank=rank), Checkpoint(None, ""))
            if _validation(found) >= _validation(best):
                break
            best = found
        return best

    def _penalties(
        self, config: FitConfig, strength: float, weight_strength: float, anchor: Tensor | None
    ) -> Penalties:
        if anchor is None:
            anchor = self.pairs.like.new_zeros(self.pairs.dim)
        return Penalties(anchor, strength, config.penalty, weight_strength)

    def _problem(self, pairs: Pairs, config: FitConfig, penalties: Penalties) -> SimplexProblem:
        return SimplexProblem(pairs, config.fixed_rank, config.average, config.temperature, penalties)

    def _fit_simplex(
        self, config: FitConfig, penalties: Penalties, validation: float | None, checkpoint: Checkpoint
    ) -> Job[Fit]:
        problem, start = yield from self._resumed_or_begun(config, penalties, checkpoint)
        minimum = yield from problem.fit(
            start, self.spectrum, config.tolerance, config.max_iterations, checkpoint.reached
        )
        gap = yield from problem.gap(minimum)
        converged = minimum.converged or gap <= config.tolerance
        if not converged:
            warnings.warn(
                f"rank {config.rank} stopped at gap {gap:.1e} above the tolerance {config.tolerance:.1e}; "
                "raise `max_iterations` or `tolerance`, or give a larger `strength`",
                ConvergenceWarning,
                stacklevel=2,
            )
        loss, _, weights = yield from problem.loss(minimum.point)
        drawn = penalty(minimum.point, penalties.reference, penalties.strength, penalties.kind).value
        basis = RewardBasis(
            vectors=minimum.point,
            center=torch.zeros_like(minimum.point[:, 0]),
            population=problem.population.to(minimum.point),
            family="simplex",
            rank=config.fixed_rank,
            temperature=config.temperature,
            weight_strength=penalties.weight_strength,
        )
        return Fit(
            basis=basis,
            weights=weights,
            loss=float(loss),
            objective=float(loss + drawn + problem.shrinkage(problem.population)),
            gap=gap,
            converged=converged,
            history=minimum.history,
            strength=penalties.strength,
            weight_strength=penalties.weight_strength,
            validation=validation,
        )

    def _resumed_or_begun(
        self, config: FitConfig, penalties: Penalties, checkpoint: Checkpoint
    ) -> Job[tuple[SimplexProblem, Tensor]]:
        """The problem and where to descend from: the basis of the checkpoint, or the best of several starts."""
        if checkpoint.basis is not None and checkpoint.population is not None:
            problem = self._problem(self.pairs, config, penalties)
            problem.population = checkpoint.population.to(problem.population)
            return problem, checkpoint.basis.to(self.pairs.like)
        anchor = yield from self._anchor(config, penalties)
        problems = [self._problem(self.pairs, config, penalties) for _ in range(config.starts(len(self.pairs)))]
        begun = yield from together(
            [self._begun(problem, anchor, config, number) for number, problem in enumerate(problems)]
        )
        best = min(range(len(begun)), key=lambda number: begun[number].value)
        return problems[best], begun[best].point

    def _begun(self, problem: SimplexProblem, anchor: Tensor, config: FitConfig, number: int) -> Job[Minimum]:
        """A short descent from one of several starts: far enough to tell which of them to follow."""
        distances = STARTS if number == 0 else (STARTS[number % len(STARTS)],)
        start = yield from problem.start(anchor, config.seed + number, distances)
        steps = _BEGINNING if config.starts(len(self.pairs)) > 1 else 0
        return (yield from problem.round(start, self.spectrum, _ROUGH * config.tolerance, steps))

    def _anchor(self, config: FitConfig, penalties: Penalties) -> Job[Tensor]:
        """Where to start from: the reference, or where there is none the pooled direction."""
        if bool(penalties.reference.norm() > 0) or config.rank == 1:
            return penalties.reference
        problem = self._pooled_problem(self.pairs, config, max(penalties.strength, 1e-4 * self._unit(config)))
        zero = penalties.reference[:, None].clone()
        minimum = yield from problem.round(zero, self.spectrum, config.tolerance, config.max_iterations)
        return minimum.point.squeeze(1)

    def _reference(self, config: FitConfig, reference: Tensor) -> Fit:
        basis = reference_basis(reference, config.temperature)
        weights = reference.new_ones(len(self.pairs.users), 1)
        problem = likelihood(self.pairs, config.average, config.temperature)
        loss = float(problem.loss(problem.margins(problem.project(basis.vectors), weights)))
        return Fit(basis, weights, loss, loss, gap=0.0, converged=True, history=[loss])

    # --- validation -----------------------------------------------------------------------------------------------

    def folds(self, seed: int) -> list[_Fold]:
        """Training and held-out pairs by group, without shared responses; a pair that straddles is in neither."""
        if seed not in self._folds:
            self._folds[seed] = _folds(self.pairs, seed)
        return self._folds[seed]

    def pooled(self, config: FitConfig) -> _Pooled:
        """The pooled direction at the strength that predicts held-out groups best."""
        key = (config.average, config.temperature, config.seed)
        if key not in self._pooled:
            self._pooled[key] = self._validated_pooled(replace(config, rank=1, penalty="distance"))
        return self._pooled[key]

    def _validated_pooled(self, config: FitConfig) -> _Pooled:
        folds = self.folds(config.seed)
        held_out = [likelihood(fold.held_out, config.average, config.temperature) for fold in folds]
        starts: list[Tensor | None] = [None] * len(folds)
        means: list[float] = []
        of_folds: list[list[Tensor]] = []
        for relative in _POOLED_STRENGTHS:
            strength = relative * self._unit(config)
            fits = [
                self._fit_pooled(*part, config=config, strength=strength).point
                for part in zip(folds, starts, strict=True)
            ]
            losses = [
                table.loss(table.margins(table.project(fit), fit.new_ones(len(fold.pairs.users), 1)))
                for table, fit, fold in zip(held_out, fits, folds, strict=True)
            ]
            means.append(float(torch.stack(losses).mean()))
            of_folds.append([fit.squeeze(1) for fit in fits])
            starts = list(fits)
            if means[-1] > min(means) and means[-2] > min(means):
                break  # two in a row that are worse: weaker ones only overfit more
        best = int(np.argmin(means))
        strength = _POOLED_STRENGTHS[best] * self._unit(config)
        direction = self._fit_pooled(self, None, config, strength).point.squeeze(1)
        return _Pooled(strength, means[best], direction, of_folds[best])

    def _pooled_problem(self, pairs: Pairs, config: FitConfig, strength: float) -> SimplexProblem:
        config = replace(config, rank=1, penalty="distance", weight_strength=0.0)
        return self._problem(pairs, config, self._penalties(config, strength, 0.0, self.reference))

    def _fit_pooled(self, part: "_Fold | Fitter", start: Tensor | None, config: FitConfig, strength: float) -> Minimum:
        problem = self._pooled_problem(part.pairs, config, strength)
        begin = problem.penalties.reference[:, None].clone() if start is None else start
        return problem.run(problem.round(begin, part.spectrum, config.tolerance, config.max_iterations))

    def _tuned(self, config: FitConfig, checkpoint: Checkpoint) -> tuple[float, float, float]:
        """Strength, shrinkage of weights and held-out log loss: one is chosen after the other, each along a path."""
        distance = config.penalty == "distance"
        strengths = [relative * (self._unit(config) if distance else 1.0) for relative in _STRENGTHS]
        if config.strength != "auto":
            strengths = [config.strength]
        shrinkages = [config.weight_strength] if config.weight_strength != "auto" else list(_WEIGHT_STRENGTHS)
        tried: dict[tuple[float, float], float] = {}
        middle = strengths[len(strengths) // 3]
        for value in shrinkages:
            tried[middle, value] = self._validated(config, middle, value, checkpoint)
            if tried[middle, value] > min(tried.values()):
                break  # weaker shrinkage only gets worse from here
        shrinkage = min(tried, key=tried.__getitem__)[1]
        if config.strength == "auto" and distance and self.reference is None:
            tried[_POOLED_ONLY * self._unit(config), shrinkage] = self.pooled(config).validation
        weaker, stronger = strengths[len(strengths) // 3 + 1 :], strengths[: len(strengths) // 3][::-1]
        for direction in (weaker, stronger):
            last = tried[middle, shrinkage]
            for value in direction:
                tried[value, shrinkage] = self._validated(config, value, shrinkage, checkpoint)
                if tried[value, shrinkage] > last:
                    break
                last = tried[value, shrinkage]
        best = min(tried, key=tried.__getitem__)
        return *best, tried[best]

    def _validated(self, config: FitConfig, strength: float, shrinkage: float, checkpoint: Checkpoint) -> float:
        """The log loss on held-out groups, if the checkpoint does not know it computed now."""
        if (strength, shrinkage) not in checkpoint.held_out:
            checkpoint.validated(strength, shrinkage, self._held_out_loss(config, strength, shrinkage))
        return checkpoint.held_out[strength, shrinkage]

    def _held_out_loss(self, config: FitConfig, strength: float, shrinkage: float) -> float:
        # A tenth of the accuracy, and equal weights as the population, suffice to rank candidates.
        config = replace(config, tolerance=10 * config.tolerance, max_iterations=40)
        losses = []
        shrunk = self.reference is None and config.penalty == "distance" and config.strength == "auto"
        pooled = self.pooled(config).of_folds if shrunk else None
        for number, fold in enumerate(self.folds(config.seed)):
            anchor = self.reference if pooled is None else pooled[number]
            penalties = self._penalties(config, strength, shrinkage, anchor)
            problem = self._problem(fold.pairs, config, penalties)
            if anchor is None:
                anchor = self._fit_pooled(fold, None, config, max(strength, 1e-4 * self._unit(config))).point.squeeze(1)
            begin = problem.run(problem.start(anchor, config.seed, distances=(1.0,)))
            basis = problem.run(problem.round(begin, fold.spectrum, config.tolerance, config.max_iterations)).point
            _, _, weights = problem.run(problem.loss(basis))
            held_out = likelihood(fold.held_out, config.average, config.temperature)
            losses.append(float(held_out.loss(held_out.margins(held_out.project(basis), weights))))
        return float(np.mean(losses))

    # --- the gaussian family --------------------------------------------------------------------------------------

    def _fit_gaussian(self, config: FitConfig) -> Fit:
        features = taste_features(self.pairs)
        if config.rank != "auto" and config.rank > features.shape[1]:
            raise ConfigError(
                f"`rank` must be at most the {features.shape[1]} features of these pairs, got {config.rank}"
            )
        center, strength = self._center(config)
        problem = TasteProblem(self.pairs, config, center, features)
        folds = [self._taste_fold(fold, config, strength) for fold in self.folds(config.seed)]
        course = TasteSearch(folds, config).course()
        problem = problem.stretched(course.length)
        taste = problem.taste(course)
        basis = problem.basis(taste, course.rank)
        weights = problem.posterior(taste).weights
        loss = float(problem.table.loss(problem.margins(taste, weights)))
        return Fit(
            basis=basis,
            weights=weights.to(center),
            loss=loss,
            objective=loss + float(weights.square().sum(1).mean()) / 2,
            gap=taste.change,
            converged=True,
            strength=strength,
            validation=course.validation,
        )

    def _center(self, config: FitConfig) -> tuple[Tensor, float]:
        """The pooled direction, and its strength."""
        if config.strength == "auto":
            pooled = self.pooled(config)
            return pooled.direction, pooled.strength
        return self._fit_pooled(self, None, config, config.strength).point.squeeze(1), config.strength

    def _taste_fold(self, fold: _Fold, config: FitConfig, strength: float) -> tuple[TasteProblem, Pairs]:
        """Of a fold, the problem of its training part around its own center, and its held-out pairs."""
        center = self._fit_pooled(fold, None, config, strength).point.squeeze(1)
        return TasteProblem(fold.pairs, config, center, taste_features(fold.pairs)), fold.held_out


def _validation(fit: Fit) -> float:
    """Log loss on held-out groups; a fit that was not validated loses to any that was."""
    return math.inf if fit.validation is None else fit.validation


def _mean_squared_difference(pairs: Pairs) -> float:
    """Mean squared length of a difference, over a sample of the pairs.

    Raises:
        DataError: no pair tells anything, as its responses have the same embedding; or one is no number.
    """
    found = float(pairs.sample(_SAMPLE).differences().double().square().sum(1).mean())
    if not math.isfinite(found):
        raise DataError("embeddings hold values that are not finite; embed again, or leave those responses out")
    if found == 0:
        raise DataError(
            "chosen and rejected have the same embedding in every pair; use an encoder that tells them apart"
        )
    return found


def _folds(pairs: Pairs, seed: int) -> list[_Fold]:
    groups, number = pairs.group.unique(return_inverse=True)
    if len(groups) < 2:
        raise ConfigError(
            "choosing needs two groups (prompts, or items) to hold one out; add groups (in Python the simplex family's "
            "`strength` and `weight_strength` can be numbers)"
        )
    folds = min(_FOLDS, len(groups))
    assigned = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)) % folds
    of_row = assigned.to(number.device)[number]
    made = []
    for fold in range(folds):
        shares = (1 - 1 / folds, 1 / folds)  # so that an item is in as many pairs as among all
        train, held_out = pairs.parted(of_row == fold, part=3 + 2 * fold, shares=shares)
        if len(train) and len(held_out):
            made.append(_Fold(train.compact(), held_out.compact()))
    if not made:
        raise ConfigError(
            "there are no pairs within held-out groups to choose by; add comparisons, or for the simplex family give "
            "`strength` and `weight_strength` as numbers"
        )
    return made
