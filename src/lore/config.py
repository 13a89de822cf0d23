"""`FitConfig`, how to fit, and `Fit`, what comes of it."""

import math
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from lore.basis import Family, RewardBasis
from lore.errors import ConfigError
from lore.objective import Average, PenaltyKind

Strength = float | Literal["auto"]
Rank = int | Literal["auto"]
RANKS = (2, 4, 6, 8, 12, 16)  # that are tried where the rank is "auto" (simplex)

_MOST_STARTS = 10
_START_PAIRS = 20_000  # pairs, times starts, up to which more starts are taken


@dataclass(frozen=True)
class FitConfig:
    """How to fit; see the module `lore.objective` for the formula.

    Attributes:
        family: "simplex", the published LoRe, or "gaussian".
        rank: learned directions, or "auto", as many as predict held-out groups best. 0 is the reference itself
            (simplex) or differences between people without a preferred direction (gaussian: ridge regression toward the
            pooled direction); 1 (simplex) is pooled Bradley-Terry. Where held-out groups say that tastes do not predict
            them, the gaussian family keeps none, whatever number is given, and the rank of its basis is 0.
        strength: of the penalty on the basis, or "auto".
        weight_strength: of the shrinkage of users' weights toward the population, or "auto" (simplex).
        penalty: "distance" or "cosine" to the reference.
        average: whether users or pairs count alike.
        temperature: of the link.
        tempering: power 1/tempering of the likelihood while the covariance is learned, or "auto" (gaussian): 4 for
            pairs that share items, which are not independent, and 1, 2 or 4 by held-out groups for others.
        tolerance: of the gap `|gradient| |basis| / objective` at which a fit is converged.
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
        return min(max(_START_PAIRS // pairs, 1), _MOST_STARTS)

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
        if self.max_iterations < 1:
            raise ConfigError(f"`max_iterations` must be 1 or more, got {self.max_iterations}")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"`seed` must be from 0 to 2^63 - 1, got {self.seed}")


@dataclass(frozen=True)
class Fit:
    """A fitted basis and the weights of the people it was fitted on.

    Attributes:
        basis: shared directions.
        weights: `[users, columns]`; somebody without pairs gets the population's.
        loss: mean loss on the pairs.
        objective: loss and penalties.
        gap: `|gradient| |basis| / objective` at the end, in coordinates in which the objective is round: how much it
            could still change, relatively, for a relative change of the basis. At rank 1 with a distance penalty of
            positive strength, which is a convex problem, a bound: the objective is at most this share of itself above
            its minimum. For the gaussian family, the relative change of the covariance in the last iteration.
        converged: whether the stopping rule was met; the gaussian family takes as many iterations as held-out groups
            want.
        history: objective after each step.
        strength: of the penalty, as used.
        weight_strength: of the shrinkage of weights, as used.
        validation: log loss on held-out groups, where a strength was "auto"; else None.
    """

    basis: RewardBasis
    weights: Tensor
    loss: float
    objective: float
    gap: float
    converged: bool
    history: list[float] = field(default_factory=list)
    strength: float = 0.0
    weight_strength: float = 0.0
    validation: float | None = None
