"""How tastes are learned from pairs: what held-out groups choose, and the basis that comes of it.

Held-out groups choose how much people may differ at all (the variance that tastes begin with), the power of the
likelihood, the number of tastes, how far expectation-maximization goes, none at all among the choices, and how much
longer than the pooled direction the center is: people who differ choose more surely, each for themselves, than they do
on average (Zeger, Liang and Albert 1988). Of the few items that many pairs share they would choose tastes that are too
strong: there they only say whether what does well in general does so here.
"""

import copy
import math
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from lore.basis import RewardBasis
from lore.config import FitConfig
from lore.gaussian import Taste, learn_taste, principal_features
from lore.objective import moderated
from lore.optimize import Posterior, UserChoices, gaussian_variances, gaussian_weights
from lore.pairs import Pairs
from lore.problem import GAUSSIAN_TOLERANCE, gaussian_choices, likelihood, repetition

Value = TypeVar("Value", int, float)

_VARIANCES = tuple(10 ** (half / 2) for half in range(-8, 5))
_FIRST_VARIANCE = 10**-1.5
_RANKS = (1, 2, 3, 4, 6, 8, 10, 12, 16)
_FIRST_RANK = 8
_TEMPERINGS = (1.0, 2.0, 4.0)
_SCALES = (1.0, 0.5, 0.25)  # of the covariance that was learned, which is of the training items above all
_LENGTHS = tuple(1.25**step for step in range(6))  # of the center, relative to the pooled direction
_MOST_ITERATIONS = 60
_PATIENCE = 2  # iterations without a better loss after which no more are tried
_BETTER = 1e-4  # nats that make a loss better
_WORTH = 1e-4  # nats that make more tastes worth having
_SURELY = 2e-4  # nats by which something has to be better than what does well in general
_HOPELESS = 1e-3  # nats that are so much worse that still fewer tastes are not tried
_NEAR = 1e-4  # gap of a person's objective at which losses are compared


@dataclass(frozen=True)
class Course:
    """A way to learn tastes.

    Attributes:
        rank: learned tastes.
        tempering: power 1/tempering of the likelihood while they are learned.
        variance: that they begin with, of every feature, at temperature 1; 0 for no tastes at all.
        iterations: of expectation-maximization.
        scale: what the covariance is multiplied by in the end.
        length: of the center, relative to the pooled direction.
        validation: log loss on held-out groups.
    """

    rank: int
    tempering: float
    variance: float
    iterations: int
    scale: float
    length: float
    validation: float


# Of pairs that share items, which are too few to choose by, what does well in general (docs/results.md).
_REPEATED = Course(8, tempering=4.0, variance=0.01, iterations=8, scale=0.5, length=1.0, validation=math.inf)
_NONE = Course(0, tempering=1.0, variance=0.0, iterations=0, scale=1.0, length=1.0, validation=math.inf)


def taste_features(pairs: Pairs) -> Tensor:
    """Principal components `[dim, features]` of the items that are learned from.

    Others would spend directions on what cannot be learned.
    """
    used = pairs.chosen if pairs.rejected is None else torch.cat([pairs.chosen, pairs.rejected])
    return principal_features(pairs.vectors[used.unique()]).map


class TasteProblem:
    """Some pairs around a center: features, the likelihood, and what comes of them."""

    def __init__(self, pairs: Pairs, config: FitConfig, center: Tensor, features: Tensor) -> None:
        self.pairs, self.config, self.center, self.features = pairs, config, center, features
        self.table = likelihood(pairs, config.average, config.temperature)
        self.offset = self.table.project(center[:, None]).squeeze(1)
        self.projected = self.table.project(self.features)

    def stretched(self, length: float) -> "TasteProblem":
        """The same around a center of another length."""
        found = copy.copy(self)
        found.center, found.offset = length * self.center, length * self.offset
        return found

    @property
    def most(self) -> int:
        """Features, and the largest rank."""
        return self.features.shape[1]

    @cached_property
    def is_repeated(self) -> bool:
        """Whether most pairs are of people whose pairs share items."""
        return float(repetition(self.pairs)[self.pairs.user].median()) >= 2

    def path(self, rank: int, tempering: float, variance: float) -> Iterator[Taste]:
        """The covariance of tastes after each iteration."""
        pairs = self.pairs
        share = pairs.weight / tempering
        tempered = UserChoices(pairs.user, pairs.label, share, len(pairs.users), self.config.temperature)
        begin = variance * self.config.temperature**2
        return learn_taste(tempered, self.projected, self.offset, min(rank, self.most), begin)

    def alike(self, variance: float) -> Taste:
        """Tastes without a preferred direction."""
        root = variance**0.5 * self.config.temperature
        return Taste(root * torch.eye(self.most, dtype=torch.float64, device=self.offset.device), change=0.0)

    def taste(self, course: Course) -> Taste:
        """What a course leads to."""
        path = self.path(course.rank, course.tempering, course.variance)
        found = next(islice(path, course.iterations - 1, None)) if course.iterations else self.alike(course.variance)
        return found.scaled(course.scale)

    def basis(self, taste: Taste, rank: int) -> RewardBasis:
        """The basis of some tastes; where they are nothing everybody is the center."""
        vectors = self.features @ taste.root.to(self.features)
        return RewardBasis(
            vectors=vectors,
            center=self.center,
            population=torch.zeros_like(vectors[0]),
            family="gaussian",
            rank=min(rank, self.most),
            temperature=self.config.temperature,
        )

    def margins(self, taste: Taste, weights: Tensor) -> Tensor:
        """Of the pairs, under everybody's weights `[users, features]`."""
        return self.table.margins(self.projected @ taste.root.to(self.projected), weights.to(self.offset)) + self.offset

    @cached_property
    def choices(self) -> UserChoices:
        """As `fit_weights` counts them."""
        return gaussian_choices(self.pairs, self.config.temperature)

    def variances(self, taste: Taste, weights: Tensor, asked: Tensor, user: Tensor) -> Tensor:
        """Posterior variances of the margins of `asked` `[asked, features]`, in coordinates of the tastes."""
        along = self.projected @ taste.root.to(self.projected)
        return gaussian_variances(self.choices, along, self.offset, weights, asked, user)

    def posterior(self, taste: Taste, tolerance: float = GAUSSIAN_TOLERANCE, start: Tensor | None = None) -> Posterior:
        """Everybody's weights, as `fit_weights` learns them."""
        along = self.projected @ taste.root.to(self.projected)
        return gaussian_weights(self.choices, along, self.offset, tolerance, start=start)


class TasteSearch:
    """Chooses a course by the log loss on held-out groups."""

    def __init__(self, folds: Sequence[tuple[TasteProblem, Pairs]], config: FitConfig) -> None:
        """Problems of the training part of each fold, and the fold's held-out pairs."""
        self._folds = [_HeldOut(problem, held_out) for problem, held_out in folds]
        self._config = config

    def course(self) -> Course:
        """The one that predicts held-out groups best, among those that the configuration leaves open."""
        best = self._covariance()
        return best if best.variance == 0 or self._is_repeated else self._stretched(best)

    def _covariance(self) -> Course:
        """The one whose tastes do so around the pooled direction."""
        nothing = self._judged(_NONE)
        rank = _FIRST_RANK if self._config.rank == "auto" else self._config.rank
        if rank > 0 and self._is_repeated:
            tempering = _REPEATED.tempering if self._config.tempering == "auto" else self._config.tempering
            best = self._judged(replace(_REPEATED, rank=rank, tempering=tempering))
            return self._fewest(best, nothing) if self._config.rank == "auto" else min(nothing, best, key=_validation)
        losses = climb(_VARIANCES, _FIRST_VARIANCE, self._alike)
        variance = min(losses, key=losses.__getitem__)
        alike = replace(_NONE, variance=variance, validation=losses[variance])
        impersonal = min(nothing, alike, key=_validation)
        if rank == 0:
            return impersonal
        best = self._scaled(*self._tempered(rank, variance))
        return self._fewest(best, impersonal) if self._config.rank == "auto" else min(impersonal, best, key=_validation)

    def _tempered(self, rank: int, variance: float) -> tuple[Course, list[Taste]]:
        """The best power of the likelihood, and number of iterations; what that leads to in each fold."""
        temperings = _TEMPERINGS if self._config.tempering == "auto" else (self._config.tempering,)
        tried: dict[float, tuple[Course, list[Taste]]] = {}

        def loss(tempering: float) -> float:
            tried[tempering] = self._best(rank, tempering, variance)
            return tried[tempering][0].validation

        climb(temperings, temperings[0], loss)
        return min(tried.values(), key=lambda found: found[0].validation)

    @property
    def _is_repeated(self) -> bool:
        return all(fold.problem.is_repeated for fold in self._folds)

    def _judged(self, course: Course) -> Course:
        """The same with its loss on these folds."""
        folds = [fold.stretched(course.length) for fold in self._folds]
        losses = [fold.loss(fold.problem.taste(course)) for fold in folds]
        return replace(course, validation=float(np.mean(losses)))

    def _stretched(self, course: Course) -> Course:
        """The same with the best length of the center."""
        tried: dict[float, Course] = {1.0: course}

        def loss(length: float) -> float:
            if length not in tried:
                tried[length] = self._judged(replace(course, length=length))
            return tried[length].validation

        climb(_LENGTHS, 1.0, loss)
        return min(tried.values(), key=_validation)

    def _scaled(self, course: Course, tastes: Sequence[Taste]) -> Course:
        """The same with the best scale of the covariances that it leads to, and the loss of that."""
        losses = climb(_SCALES, 1.0, lambda scale: self._loss([taste.scaled(scale) for taste in tastes]))
        scale = min(losses, key=losses.__getitem__)
        return replace(course, scale=scale, validation=losses[scale])

    def _fewest(self, first: Course, impersonal: Course) -> Course:
        """The fewest tastes that predict about as well as any number does: a taste more has to be worth it.

        Of repeated items, which tell little, as many as do well in general, unless others surely do better.
        """
        worth, hopeless = (_SURELY, 0.0) if self._is_repeated else (_WORTH, _HOPELESS)
        ranks = [rank for rank in _RANKS if rank <= min(fold.problem.most for fold in self._folds)]
        place = bisect(ranks, first.rank)
        tried = [first]
        for rank in ranks[place:]:
            tried.append(self._of_rank(rank, first))
            if tried[-1].validation > tried[-2].validation - worth:
                break
        lowest = min(tried, key=_validation)
        for rank in ranks[: place - 1][::-1]:
            tried.append(self._of_rank(rank, first))
            if tried[-1].validation > lowest.validation + hopeless:
                break
        lowest = min(tried, key=_validation)
        if self._is_repeated:
            best = lowest if lowest.validation <= first.validation - worth else first
            return impersonal if impersonal.validation <= best.validation - worth else best
        enough = [course for course in tried if course.validation <= lowest.validation + worth]
        best = min(enough, key=lambda course: course.rank)
        return impersonal if impersonal.validation <= best.validation + worth else best

    def _of_rank(self, rank: int, first: Course) -> Course:
        """Another number of tastes, learned for as long as is best for that number."""
        if self._is_repeated:
            return self._judged(replace(first, rank=rank))
        return self._scaled(*self._best(rank, first.tempering, first.variance))

    def _alike(self, variance: float) -> float:
        return self._loss([fold.problem.alike(variance) for fold in self._folds])

    def _best(self, rank: int, tempering: float, variance: float) -> tuple[Course, list[Taste]]:
        """The best number of iterations, and what that leads to in each fold."""
        paths = [fold.problem.path(rank, tempering, variance) for fold in self._folds]
        best = replace(_NONE, rank=rank, tempering=tempering, variance=variance)
        found = [fold.problem.alike(variance) for fold in self._folds]
        reached = 0
        for iteration, tastes in enumerate(zip(*paths, strict=True), start=1):
            loss = self._loss(tastes)
            if loss < best.validation - _BETTER:
                reached = iteration
            if loss < best.validation:
                best, found = replace(best, iterations=iteration, validation=loss), list(tastes)
            if iteration == _MOST_ITERATIONS or iteration - reached >= _PATIENCE:
                break
        return best, found

    def _loss(self, tastes: Sequence[Taste]) -> float:
        return float(np.mean([fold.loss(taste) for fold, taste in zip(self._folds, tastes, strict=True)]))


def _validation(course: Course) -> float:
    return course.validation


class _HeldOut:
    """Held-out pairs, in the features of what people are learned from."""

    def __init__(self, problem: TasteProblem, pairs: Pairs) -> None:
        self.problem = problem
        self._table = likelihood(pairs, problem.config.average, problem.config.temperature)
        self._projected = self._table.project(problem.features)
        self._offset = self._table.project(problem.center[:, None]).squeeze(1)
        self._tastes: Tensor | None = None

    def stretched(self, length: float) -> "_HeldOut":
        """The same around a center of another length."""
        found = copy.copy(self)
        found.problem, found._offset = self.problem.stretched(length), length * self._offset
        return found

    def loss(self, taste: Taste) -> float:
        """Log loss, averaged over what is not known of people's weights, which are sought from where they last were."""
        start = None
        if self._tastes is not None and taste.variance > 0:
            start = torch.linalg.solve(taste.root, self._tastes.T).T
        weights = self.problem.posterior(taste, _NEAR, start).weights
        self._tastes = weights @ taste.root.T
        margins = self._table.margins(self._projected, self._tastes.to(self._projected)) + self._offset
        along = self._projected @ taste.root.to(self._projected)
        variances = self.problem.variances(taste, weights, along, self._table.user)
        return float(self._table.loss(moderated(margins, variances, self.problem.config.temperature)))


def climb(ladder: Sequence[Value], begin: Value, loss: Callable[[Value], float]) -> dict[Value, float]:
    """Losses along a ladder, from one rung to either side for as long as they get lower."""
    place = ladder.index(begin)
    tried = {begin: loss(begin)}
    for side in (ladder[place + 1 :], ladder[:place][::-1]):
        last = tried[begin]
        for value in side:
            tried[value] = loss(value)
            if tried[value] >= last:
                break
            last = tried[value]
    return tried
