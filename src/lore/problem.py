"""The problems that are solved: the likelihood of pairs, users' own problems, and that of the basis."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lore import simplex
from lore.basis import RewardBasis
from lore.objective import Average, Likelihood, PenaltyKind, ValueAndGradient, pair_shares, penalty
from lore.optimize import Minimum, SimplexPrior, UserChoices, minimize, simplex_weights
from lore.pairs import Pairs

_ROUNDS = 5  # of fitting with a population and taking the mean of the weights as the next one
_SETTLED = 1e-3  # change of the population, summed over directions, at which the rounds end
INNER_TOLERANCE = 1e-4  # gap of the users' weights within a fit, relative to the tolerance of the basis
STARTS = (0.3, 1.0, 3.0)  # distances of the first columns from the anchor, relative to its length


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


class SimplexProblem:
    """The objective of the simplex family as a function of the basis alone: the weights are solved at every step."""

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
        self.population = simplex.uniform(1, rank, pairs.vectors)[0].double()
        self.weights: Tensor | None = None
        self.inner = 1e-3 * INNER_TOLERANCE

    def solve(self, projected: Tensor) -> Tensor:
        """Everybody's best weights `[users, rank]` for projected pairs, warm from the last ones."""
        prior = SimplexPrior(self.population, self.strength)
        self.weights = simplex_weights(self.choices, projected, prior, self.inner, self.weights).weights
        return self.weights

    def loss(self, basis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, margins `[pairs]` and weights at a basis."""
        projected = self.likelihood.project(basis)
        weights = self.solve(projected).to(basis)
        margin = self.likelihood.margins(projected, weights)
        return self.likelihood.loss(margin), margin, weights

    def shrinkage(self, population: Tensor) -> Tensor:
        """The penalty on the weights of users with pairs."""
        if self.weights is None or self.penalties.weight_strength == 0:
            return torch.zeros((), dtype=torch.float64)
        spread = simplex.divergence(population, self.weights[self.active])
        return self.penalties.weight_strength * spread.mean()

    def __call__(self, basis: Tensor) -> ValueAndGradient:
        """The objective and its gradient at a basis `[dim, rank]`, with everybody's weights at their best."""
        loss, margin, weights = self.loss(basis)
        drawn = penalty(basis, self.penalties.reference, self.penalties.strength, self.penalties.kind)
        gradient = self.likelihood.basis_gradient(margin, weights) + drawn.gradient
        return ValueAndGradient(loss + drawn.value + self.shrinkage(self.population), gradient)

    def start(self, anchor: Tensor, seed: int, distances: Sequence[float] = STARTS) -> Tensor:
        """Directions around `anchor` `[dim]` along which users differ most, at the best of some distances."""
        rank = len(self.population)
        if rank == 1:
            return anchor[:, None].clone()
        generator = torch.Generator().manual_seed(seed)
        probes = torch.randn(self.choices.users, rank, generator=generator).to(anchor)
        margin = self.likelihood.project(anchor[:, None]).squeeze(1)
        directions = torch.linalg.qr(self.likelihood.basis_gradient(margin, probes - probes.mean(0))).Q
        corners = torch.eye(rank, dtype=anchor.dtype, device=anchor.device) - 1 / rank
        spread = directions @ corners
        size = float(anchor.norm()) or self.likelihood.temperature / float(
            self.likelihood.project(spread).norm(dim=1).mean()
        )
        starts = [anchor[:, None] + size * step * spread for step in distances]
        if len(starts) == 1:
            return starts[0]
        return min(starts, key=lambda basis: float(self(basis).value))

    def fit(self, start: Tensor, tolerance: float, max_iterations: int) -> Minimum:
        """Minimize; with shrinkage of the weights, in rounds that settle the population."""
        minimum = self.round(start, tolerance, max_iterations)
        history = list(minimum.history)
        for _ in range(_ROUNDS):
            population = self.mean_weights()
            moved = float((population - self.population).abs().sum())
            self.population = population
            if self.penalties.weight_strength == 0 or moved < _SETTLED:
                break
            minimum = self.round(minimum.point, tolerance, max_iterations)
            history += minimum.history
        return replace(minimum, history=history)

    def round(self, start: Tensor, tolerance: float, max_iterations: int) -> Minimum:
        """Minimize with the population as it is."""
        self.inner = INNER_TOLERANCE * tolerance
        return minimize(self, start, tolerance, max_iterations)

    def mean_weights(self) -> Tensor:
        """Mean weights of users with pairs, `[rank]`."""
        assert self.weights is not None  # noqa: S101 - solved before
        mean = self.weights[self.active].mean(0)
        return mean / mean.sum()


def gaussian_choices(pairs: Pairs, basis: RewardBasis) -> UserChoices:
    """Users' problems at update time: pair weights over `max(1, pairs / (distinct items - 1))` of each user.

    Pairs that share items are not independent: n items give n - 1 independent comparisons. Pairs made from differences
    have no items and count in full.
    """
    share = pairs.weight
    if pairs.rejected is not None and len(pairs):
        judged = torch.stack([pairs.user.repeat(2), torch.cat([pairs.chosen, pairs.rejected])])
        items = torch.bincount(judged.unique(dim=1)[0], minlength=len(pairs.users))
        tempering = (pairs.counts / (items - 1).clamp(min=1)).clamp(min=1.0)
        share = share / tempering[pairs.user]
    return UserChoices(pairs.user, pairs.label, share, len(pairs.users), basis.temperature)
