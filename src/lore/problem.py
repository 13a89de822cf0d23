"""The problems that are solved: the likelihood of pairs, users' own problems, and that of the basis."""

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from lore import simplex
from lore.charts import Chart, Polar, Spectrum, Straight, spectrum
from lore.descent import Minimum, descend
from lore.objective import Average, Likelihood, PenaltyKind, ValueAndGradient, pair_curvature, pair_shares, penalty
from lore.optimize import SimplexPrior, UserChoices, simplex_weights
from lore.pairs import Pairs

_ROUNDS = 5  # of fitting with a population and taking the mean of the weights as the next one
_SETTLED = 1e-3  # change of the population, summed over directions, at which the rounds end
_CERTAIN = 1e-3  # bound of the error of a convex fit at which it ends, relative to the tolerance
INNER_TOLERANCE = 1e-4  # gap of the users' weights within a fit, relative to the tolerance of the basis
_LEAST_CURVATURE = 1e-3  # of the loss by a margin at temperature 1, which is nil where all choices are certain
_SAMPLE = 4_096  # pairs from which the spectrum is estimated
GAUSSIAN_TOLERANCE = 1e-12  # gap of people's weights; as the objective is 1-strongly convex, they are within 1.5e-6
STARTS = (0.3, 1.0, 3.0)  # distances of the first columns from the anchor, relative to its length


Reached = Callable[[Tensor, Tensor], None]


def _nobody(basis: Tensor, population: Tensor) -> None:
    """Hears of a better basis and does nothing."""


def likelihood(pairs: Pairs, average: Average, temperature: float) -> Likelihood:
    """The loss of some pairs as a function of basis and weights."""
    return Likelihood(
        vectors=pairs.vectors,
        chosen=pairs.chosen,
        rejected=pairs.rejected,
        user=pairs.user,
        label=pairs.label,
        share=pair_shares(pairs.user, pairs.weight, len(pairs.users), average),
        temperature=temperature,
    )


def spectrum_of(pairs: Pairs, seed: int) -> Spectrum:
    """How far the differences of pairs spread, from at most 4,096 of them."""
    some = pairs.select(torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))[:_SAMPLE])
    return spectrum(some.differences(), seed)


def user_choices(pairs: Pairs, temperature: float) -> UserChoices:
    """The users' own problems: each a weighted mean over the user's pairs."""
    share = pair_shares(pairs.user, pairs.weight, len(pairs.users), "users")
    active = (_totals(pairs) > 0).sum()
    return UserChoices(pairs.user, pairs.label, share * active, len(pairs.users), temperature)


def _totals(pairs: Pairs) -> Tensor:
    """Summed pair weights of each user, `[users]`."""
    totals = torch.zeros(len(pairs.users), dtype=pairs.weight.dtype, device=pairs.weight.device)
    return totals.index_add_(0, pairs.user, pairs.weight)


@dataclass(frozen=True)
class Penalties:
    """What the objective adds to the loss; see `lore.objective`."""

    reference: Tensor
    strength: float
    kind: PenaltyKind
    weight_strength: float


# --- passes over the data -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Project:
    """Asks for the pairs in coordinates of `columns` `[dim, rank]`, a basis: `[pairs, rank]`."""

    columns: Tensor


@dataclass(frozen=True)
class Transpose:
    """Asks for the adjoint of that: `[dim, rank]` from `columns` `[pairs, rank]`."""

    columns: Tensor


Answer = TypeVar("Answer")
Job = Generator[Project | Transpose, Tensor, Answer]


def run(table: Likelihood, job: Job[Answer]) -> Answer:
    """What a job returns, its questions answered by passes over the embeddings."""
    answer: Any = None  # None begins a job
    while True:
        try:
            asked = job.send(answer)
        except StopIteration as done:
            found: Answer = done.value
            return found
        answer = table.project(asked.columns) if isinstance(asked, Project) else table.project_transposed(asked.columns)


def together(jobs: Sequence[Job[Answer]]) -> Job[list[Answer]]:
    """One job of several: what they ask for at a time is asked for at once, and so costs one pass.

    A product with a few columns costs little more than one with a single column, as reading the embeddings dominates.
    """
    found: dict[int, Answer] = {}
    answers: dict[int, Any] = dict.fromkeys(range(len(jobs)))
    while answers:
        asked: dict[int, Project | Transpose] = {}
        for number, answer in answers.items():
            try:
                asked[number] = jobs[number].send(answer)
            except StopIteration as done:
                found[number] = done.value
        answers = {}
        for kind in (Project, Transpose):
            columns = {number: query.columns for number, query in asked.items() if isinstance(query, kind)}
            if columns:
                product = yield kind(torch.cat(list(columns.values()), dim=1))
                parts = product.split([part.shape[1] for part in columns.values()], dim=1)
                answers |= dict(zip(columns, parts, strict=True))
    return [found[number] for number in range(len(jobs))]


# --- the problem of the basis -------------------------------------------------------------------------------------


class SimplexProblem:
    """The objective of the simplex family as a function of the basis alone: the weights are solved at every step.

    It sees the embeddings through `Project` and `Transpose` only; its methods that need them are jobs.
    """

    def __init__(self, pairs: Pairs, rank: int, average: Average, temperature: float, penalties: Penalties) -> None:
        self.likelihood = likelihood(pairs, average, temperature)
        self.choices = user_choices(pairs, temperature)
        self.penalties = penalties
        totals = _totals(pairs).double()
        self.active = totals > 0
        # The share of a user in the loss decides what the same shrinkage means to that user.
        in_loss = totals / totals.sum() if average == "pairs" else self.active / self.active.sum()
        relative = torch.where(self.active, 1 / (in_loss * self.active.sum()), 0.0)
        self.strength = penalties.weight_strength * relative
        self.population = simplex.uniform(1, rank, pairs.like)[0].double()
        self.weights: Tensor | None = None
        self.inner = 1e-3 * INNER_TOLERANCE
        self.curvature = 0.25 / temperature**2  # mean one of the loss by a margin, at the last evaluation

    def run(self, job: Job[Answer]) -> Answer:
        """What a job of this problem returns."""
        return run(self.likelihood, job)

    def solve(self, projected: Tensor) -> Tensor:
        """Everybody's best weights `[users, rank]` for projected pairs, warm from the last ones."""
        if len(self.population) == 1:
            self.weights = self.population.expand(self.choices.users, 1)
            return self.weights
        prior = SimplexPrior(self.population, self.strength)
        self.weights = simplex_weights(self.choices, projected, prior, self.inner, self.weights).weights
        return self.weights

    def loss(self, basis: Tensor) -> Job[tuple[Tensor, Tensor, Tensor]]:
        """Loss, margins `[pairs]` and weights at a basis."""
        projected = yield Project(basis)
        weights = self.solve(projected).to(basis)
        margin = self.likelihood.margins(projected, weights)
        return self.likelihood.loss(margin), margin, weights

    def shrinkage(self, population: Tensor) -> Tensor:
        """The penalty on the weights of users with pairs."""
        if self.weights is None or self.penalties.weight_strength == 0:
            return population.new_zeros(())
        spread = simplex.divergence(population, self.weights[self.active])
        return self.penalties.weight_strength * spread.mean()

    def evaluate(self, basis: Tensor) -> Job[ValueAndGradient]:
        """The objective and its gradient at a basis `[dim, rank]`, with everybody's weights at their best."""
        loss, margin, weights = yield from self.loss(basis)
        curvature = self.likelihood.share @ pair_curvature(margin, self.likelihood.temperature)
        self.curvature = max(float(curvature), _LEAST_CURVATURE / self.likelihood.temperature**2)
        gradient = yield Transpose(self.likelihood.slopes(margin, weights))
        drawn = penalty(basis, self.penalties.reference, self.penalties.strength, self.penalties.kind)
        return ValueAndGradient(loss + drawn.value + self.shrinkage(self.population), gradient + drawn.gradient)

    def start(self, anchor: Tensor, seed: int, distances: Sequence[float] = STARTS) -> Job[Tensor]:
        """Directions around `anchor` `[dim]` along which users differ most, at the best of some distances."""
        rank = len(self.population)
        if rank == 1:
            return anchor[:, None].clone()
        generator = torch.Generator().manual_seed(seed)
        probes = torch.randn(self.choices.users, rank, generator=generator).to(anchor)
        margin = (yield Project(anchor[:, None])).squeeze(1)
        gradient = yield Transpose(self.likelihood.slopes(margin, probes - probes.mean(0)))
        corners = torch.eye(rank, dtype=anchor.dtype, device=anchor.device) - 1 / rank
        spread = torch.linalg.qr(gradient).Q @ corners
        size = float(anchor.norm())
        if size == 0:
            size = self.likelihood.temperature / float((yield Project(spread)).norm(dim=1).mean())
        starts = [anchor[:, None] + size * step * spread for step in distances]
        if self._is_polar:
            starts = self._polar_starts(anchor, spread, distances)
        if len(starts) == 1:
            return starts[0]
        values = []
        for basis in starts:
            values.append(float((yield from self.evaluate(basis)).value))
        return starts[values.index(min(values))]

    @property
    def _is_polar(self) -> bool:
        """Whether no column of a minimum can be across the reference: its penalty would be above the loss of chance."""
        return self.penalties.kind == "cosine" and self.penalties.strength >= math.log(2) * len(self.population)

    def _polar_starts(self, anchor: Tensor, spread: Tensor, distances: Sequence[float]) -> list[Tensor]:
        """Columns of different lengths, along the anchor or some way off."""
        lengths = torch.linspace(-1.5, 1.5, spread.shape[1], device=anchor.device).exp().to(anchor)
        across = spread - anchor[:, None] * (anchor @ spread) / anchor.square().sum()
        return [
            size * lengths * (anchor[:, None] + offset * float(anchor.norm()) * across)
            for size in distances
            for offset in (0.0, 0.3)
        ]

    def chart(self, basis: Tensor, found: Spectrum) -> Chart:
        """Coordinates for a descent that begins at `basis`, which was evaluated last."""
        rank, penalties = basis.shape[1], self.penalties
        curvature = self.curvature / rank**1.5  # weights between uniform and one of the corners
        if penalties.kind == "distance":
            return Straight.of(found, curvature, penalties.strength)
        length = float(basis.norm(dim=0).mean())
        if self._is_polar:
            return Polar.of(found, curvature, penalties.strength / rank, penalties.reference, length)
        return Straight.of(found, curvature, penalties.strength / (2 * rank * length**2))

    def fit(
        self, start: Tensor, found: Spectrum, tolerance: float, max_iterations: int, reached: Reached = _nobody
    ) -> Job[Minimum]:
        """Minimize; with shrinkage of the weights, in rounds that settle the population.

        `reached` is told of every better basis, and of the population that goes with it.
        """
        minimum = yield from self.round(start, found, tolerance, max_iterations, reached)
        history = list(minimum.history)
        for _ in range(_ROUNDS):
            population = self.mean_weights()
            moved = float((population - self.population).abs().sum())
            self.population = population
            if self.penalties.weight_strength == 0 or moved < _SETTLED:
                break
            minimum = yield from self.round(minimum.point, found, tolerance, max_iterations, reached)
            history += minimum.history
        return replace(minimum, history=history)

    def round(
        self, start: Tensor, found: Spectrum, tolerance: float, max_iterations: int, reached: Reached = _nobody
    ) -> Job[Minimum]:
        """Minimize with the population as it is."""
        self.inner = INNER_TOLERANCE * tolerance
        basis, lowest, history = start, math.inf, list[float]()
        value, gradient = yield from self.evaluate(start)
        chart = self.chart(start, found)
        descent = descend(chart.coordinates(start), tolerance, max_iterations)
        point = next(descent)
        while True:
            if value < lowest:
                lowest = float(value)
                reached(basis, self.population)
                history.append(lowest)
            if self._is_strongly_convex and (bound := self._bound(value, gradient)) <= _CERTAIN * tolerance:
                return Minimum(basis, float(value), bound, converged=True, history=history)
            try:
                point = descent.send(ValueAndGradient(value, chart.pulled_back(point, gradient)))
            except StopIteration as stopped:
                return replace(stopped.value, point=chart.basis(stopped.value.point))
            basis = chart.basis(point)
            value, gradient = yield from self.evaluate(basis)

    def gap(self, minimum: Minimum) -> Job[float]:
        """How far from a minimum, relative to the objective: a bound where the problem is strongly convex.

        With one column and the distance penalty it is: `|gradient|^2 / (4 strength)` bounds how far the objective is
        above its minimum (Boyd and Vandenberghe 2004, equation 9.9). Elsewhere the gap of the descent.
        """
        if not self._is_strongly_convex:
            return minimum.gap
        return self._bound(*(yield from self.evaluate(minimum.point)))

    @property
    def _is_strongly_convex(self) -> bool:
        return len(self.population) == 1 and self.penalties.kind == "distance" and self.penalties.strength > 0

    def _bound(self, value: Tensor, gradient: Tensor) -> float:
        return float(gradient.double().square().sum() / (4 * self.penalties.strength * value))

    def mean_weights(self) -> Tensor:
        """Mean weights of users with pairs, `[rank]`."""
        assert self.weights is not None  # noqa: S101 - solved before
        mean = self.weights[self.active].mean(0)
        return mean / mean.sum()


def gaussian_choices(pairs: Pairs, temperature: float) -> UserChoices:
    """Users' problems at update time: pair weights over each user's `repetition`."""
    share = pairs.weight / repetition(pairs).to(pairs.weight)[pairs.user]
    return UserChoices(pairs.user, pairs.label, share, len(pairs.users), temperature)


def repetition(pairs: Pairs) -> Tensor:
    """How often each user's pairs say the same, `[users]`, 1 at least.

    Pairs that share items are not independent: n items give n - 1 independent comparisons, and so the pairs count
    `pairs / (n - 1)` times too much. Where an item is in two pairs or more, at least 2, as features miss what an item
    has for all people: with less, probabilities were too sure of themselves (docs/results.md). Pairs whose items are
    all distinct, and pairs made from differences, which have no items, count in full; those of weight 0 do not count.
    """
    if not bool((pairs.weight > 0).all()):
        pairs = pairs.select(pairs.weight > 0)
    if pairs.rejected is None or len(pairs) == 0:
        return torch.ones(len(pairs.users), device=pairs.user.device)
    sides = torch.cat([pairs.chosen, pairs.rejected])
    first, second = torch.stack([pairs.chosen, pairs.rejected]).sort(dim=0).values
    items = _distinct(pairs.user.repeat(2), sides, len(pairs.users))
    count = _distinct(pairs.user, first * len(pairs.vectors) + second, len(pairs.users))
    return torch.maximum(count / (items - 1).clamp(min=1), (2 * count / items.clamp(min=1)).clamp(min=1.0, max=2.0))


def _distinct(user: Tensor, value: Tensor, users: int) -> Tensor:
    """How many different values each user has, `[users]`."""
    found, number = value.unique(return_inverse=True)
    return torch.bincount((user * len(found) + number).unique() // len(found), minlength=users)
