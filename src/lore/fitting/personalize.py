"""`fit_weights`: adapt to users from their comparisons, the basis frozen; one function for tables and servers."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from lore.errors import ConfigError, ConvergenceWarning, ShapeError
from lore.exports import compact_repr
from lore.fitting.basis import RewardBasis
from lore.fitting.likelihood import GAUSSIAN_TOLERANCE, gaussian_problems, likelihood, simplex_problems
from lore.pairs.table import Pairs
from lore.solvers.gaussian_weights import gaussian_covariance, gaussian_gaps, gaussian_variances, gaussian_weights
from lore.solvers.simplex_weights import SimplexPrior, simplex_weights

_TOLERANCE = 1e-7
_UNSOLVED = 1e-6  # gap above which weights are not called found


@dataclass(frozen=True, repr=False)
class UserWeights:
    """Weights of users, row by row in the order of `Pairs.users`.

    Attributes:
        weights: `[users, columns]`; the population's for a user without pairs.
        gap: upper bounds of how far each user's objective is above its minimum, `[users]`; for the gaussian family at
            the weights as they are rounded here.
        pairs: the comparisons that the weights were learned from.
        basis: the frozen directions.
    """

    weights: Tensor
    gap: Tensor
    pairs: Pairs
    basis: RewardBasis

    __repr__ = compact_repr

    def covariance(self, rows: Tensor) -> Tensor:
        """Posterior covariance of some users' weights, `[len(rows), columns, columns]` (gaussian family).

        Raises:
            ConfigError: the family has no covariance.
        """
        self._check_family()
        pairs = self.pairs.for_users(rows)
        problems = gaussian_problems(pairs, self.basis.temperature)
        return gaussian_covariance(problems, *project_on(pairs, self.basis), self.weights[rows]).to(self.weights)

    def variances(self, targets: Tensor, user: Tensor) -> Tensor:
        """Posterior variances of margins, `[targets]` (gaussian family).

        Args:
            targets: differences in coordinates of the basis, `[targets, columns]`.
            user: rows of the weights, `[targets]`.

        Raises:
            ConfigError: the family has no variances.
        """
        self._check_family()
        problems = gaussian_problems(self.pairs, self.basis.temperature)
        return gaussian_variances(problems, *project_on(self.pairs, self.basis), self.weights, targets, user)

    def _check_family(self) -> None:
        if self.basis.family != "gaussian":
            raise ConfigError('only the gaussian family knows how sure weights are; fit with `family="gaussian"`')


def fit_weights(shots: Pairs, basis: RewardBasis, *, rank_only: bool = False) -> UserWeights:
    """Every user's weights from their pairs, each user by a small convex problem of its own.

    Args:
        shots: comparisons of the users; a user without any gets the population's weights.
        basis: frozen directions.
        rank_only: keep users in `basis.rank` numbers, the weights of `basis.truncated(basis.rank)`; that is then the
            result's basis.

    Raises:
        ShapeError: pairs and basis are of different embeddings.
    """
    if shots.dim != basis.dim:
        raise ShapeError(f"the pairs have {shots.dim} numbers an embedding and the basis {basis.dim}; use one encoder")
    basis = basis.truncated(basis.rank) if rank_only else basis
    shots = shots.compact()
    projected, offset = project_on(shots, basis)
    if basis.family == "gaussian":
        choices = gaussian_problems(shots, basis.temperature)
        posterior = gaussian_weights(choices, projected, offset, GAUSSIAN_TOLERANCE)
        _warn_of_unsolved(posterior.gap)
        weights = posterior.weights.to(projected)
        return UserWeights(weights, gaussian_gaps(choices, projected, offset, weights), shots, basis)
    problems = simplex_problems(shots, basis.temperature)
    prior = SimplexPrior(
        basis.population, torch.full((len(shots.users),), basis.weight_strength, device=projected.device)
    )
    solution = simplex_weights(problems, projected, prior, _TOLERANCE)
    _warn_of_unsolved(solution.gap)
    return UserWeights(solution.weights.to(projected), solution.gap, shots, basis)


def _warn_of_unsolved(gap: Tensor) -> None:
    """Warn of users whose weights were not found."""
    if unsolved := int((gap > _UNSOLVED).sum()):
        warnings.warn(
            f"weights of {unsolved} of {len(gap)} users were not found: their gap, up to {float(gap.max()):.1e}, is "
            f"above {_UNSOLVED:.0e}; margins are very large: scale the basis down, or raise its `temperature`",
            ConvergenceWarning,
            stacklevel=3,
        )


def project_on(pairs: Pairs, basis: RewardBasis) -> tuple[Tensor, Tensor]:
    """Return pairs in coordinates of the basis, `[pairs, columns]`, and the margin of the center, `[pairs]`."""
    table = likelihood(pairs, "pairs", basis.temperature)
    projected = table.project(torch.cat([basis.vectors, basis.center[:, None]], dim=1).to(pairs.empty))
    return projected[:, :-1], projected[:, -1]
