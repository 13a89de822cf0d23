"""`FitConfig`: the settings of a fit. `Fit`: its result."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from lore.errors import ConfigError
from lore.exports import compact_repr
from lore.fitting.basis import Family, RewardBasis
from lore.solvers.objective import Average, PenaltyKind

Strength = float | Literal["auto"]
Rank = int | Literal["auto"]
RANKS = (2, 4, 6, 8, 12, 16)  # that are tried where the rank is "auto" (simplex)

_SIMPLEX_RANKS = (2, 4, 8)  # that a sweep compares where the rank is "auto"
_MAX_STARTS = 10
_START_PAIRS = 20_000  # pairs, times starts, up to which more starts are taken


@dataclass(frozen=True)
class FitConfig:
    """A configuration of a fit; `lore.solvers.objective` has the formula.

    Attributes:
        family: "simplex", the published LoRe, or "gaussian".
        rank: learned directions, or "auto", as many as predict held-out groups best. 0 is the reference itself
            (simplex) or differences between users without a preferred direction (gaussian: ridge regression toward the
            pooled direction); 1 (simplex) is pooled Bradley-Terry. Where held-out groups say that tastes do not predict
            them, the gaussian family keeps none, whatever number is given, and the rank of its basis is 0.
        strength: of the penalty on the basis, or "auto".
        weight_strength: of the shrinkage of users' weights toward the population, or "auto" (simplex).
        penalty: "distance" or "cosine" to the reference.
        average: whether users or pairs count alike.
        temperature: of the link.
        tempering: power 1/tempering of the likelihood while the covariance is learned, or "auto" (gaussian): 4 for
            pairs that share items, which are not independent, and 1, 2 or 4 by held-out groups for others.
        tolerance: of the optimality `|gradient| |basis| / objective` at which a fit is converged.
        max_iterations: steps at most.
        seed: of starts and folds.
    """

    family: Family = "simplex"
    rank: Rank = 5
    strength: Strength = "auto"
    weight_strength: Strength = "auto"
    penalty: PenaltyKind = "distance"
    average: Average = "users"
    temperature: float = 1.0
    tempering: Strength = "auto"
    tolerance: float = 1e-3
    max_iterations: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.family not in ("simplex", "gaussian"):
            raise ConfigError(f"`family` must be 'simplex' or 'gaussian', got {self.family!r}")
        if self.rank != "auto" and (type(self.rank) is not int or self.rank < 0):
            raise ConfigError(
                f"`rank` must be 'auto', or a whole number of 0 (the reference) or more, got {self.rank!r}"
            )
        if self.penalty not in ("distance", "cosine"):
            raise ConfigError(f"`penalty` must be 'distance' or 'cosine', got {self.penalty!r}")
        if self.average not in ("users", "pairs"):
            raise ConfigError(f"`average` must be 'users' or 'pairs', got {self.average!r}")
        self._check_numbers()

    @property
    def fixed_rank(self) -> int:
        """The rank, where it is a number.

        Raises:
            ConfigError: it is "auto".
        """
        if self.rank == "auto":
            raise ConfigError("`rank` must be a number here, got 'auto'; give how many directions to learn")
        return self.rank

    def starts(self, pairs: int) -> int:
        """Descents from different starts: the objective has several minima, and where pairs are few they are cheap."""
        if self.family == "gaussian" or self.rank == 1 or self.penalty == "cosine":
            return 1
        return min(max(_START_PAIRS // pairs, 1), _MAX_STARTS)

    def _check_numbers(self) -> None:
        for name in ("strength", "weight_strength"):
            value = getattr(self, name)
            if value != "auto" and not (isinstance(value, int | float) and 0 <= value < math.inf):
                raise ConfigError(f"`{name}` must be 'auto' or a number of 0 or more, got {value!r}")
        for name in ("temperature", "tolerance", "tempering"):
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and 0 < value < math.inf
            if (name, value) != ("tempering", "auto") and not is_number:
                auto = "'auto' or " if name == "tempering" else ""
                raise ConfigError(f"`{name}` must be {auto}a positive number, got {value!r}")
        if type(self.max_iterations) is not int or self.max_iterations < 1:
            raise ConfigError(f"`max_iterations` must be a whole number of 1 or more, got {self.max_iterations!r}")
        if type(self.seed) is not int or not 0 <= self.seed < 2**63:
            raise ConfigError(f"`seed` must be a whole number from 0 to 2^63 - 1, got {self.seed!r}")


OptimalityKind = Literal["relative gradient", "covariance change"]


@dataclass(frozen=True, repr=False)
class Fit:
    """A fitted basis and the weights of the users it was fitted on.

    Attributes:
        basis: shared directions.
        weights: `[users, columns]`; the population's for a user without pairs.
        loss: mean loss on the pairs.
        objective: loss and penalties.
        gap: certified bound of how far the objective is above its minimum, as a share of it. Only a convex problem has
            one: rank 1 with a distance penalty of positive strength, and the reference, which has nothing to learn.
            None for all others.
        optimality: what the solver reported at its end; `optimality_kind` says of what.
        converged: True if the stopping rule was met. The gaussian family takes as many iterations as held-out groups
            choose.
        history: objective after each step.
        strength: of the penalty, as used.
        weight_strength: of the shrinkage of weights, as used.
        validation: log loss on held-out groups if a strength was "auto", else None.
        optimality_kind: "relative gradient" is `|gradient| |basis| / objective` in the coordinates of the
            preconditioner. "covariance change" is the relative change of the covariance in the last iteration.
    """

    basis: RewardBasis
    weights: Tensor
    loss: float
    objective: float
    gap: float | None
    optimality: float
    converged: bool
    history: list[float] = field(default_factory=list)
    strength: float = 0.0
    weight_strength: float = 0.0
    validation: float | None = None
    optimality_kind: OptimalityKind = "relative gradient"

    __repr__ = compact_repr


def personal_ranks(family: Family, ranks: Sequence[Rank]) -> list[Rank]:
    """Return the ranks of the personal models of a family among some ranks, as `lore.sweep` takes them."""
    if family == "gaussian" and "auto" in ranks:
        return ["auto"]
    numbers = {rank for rank in ranks if rank != "auto"} | set(_SIMPLEX_RANKS if "auto" in ranks else ())
    return [*sorted(rank for rank in numbers if rank >= (1 if family == "gaussian" else 2))]
