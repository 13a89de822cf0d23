"""`fit_weights`: adapt to people from their comparisons, the basis frozen; one function for tables and servers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lore.basis import RewardBasis
from lore.errors import ShapeError
from lore.objective import Likelihood
from lore.optimize import (
    SimplexPrior,
    UserChoices,
    gaussian_covariance,
    gaussian_variances,
    gaussian_weights,
    simplex_weights,
)
from lore.pairs import Pairs
from lore.problem import GAUSSIAN_TOLERANCE, gaussian_choices, user_choices

_TOLERANCE = 1e-7


@dataclass(frozen=True)
class UserWeights:
    """What is known of some people, row by row in the order of `Pairs.users`.

    Attributes:
        weights: `[users, columns]`; the population's for a person without pairs.
        gap: upper bounds of how far each person's objective is above its minimum, `[users]`.
        pairs: the comparisons that the weights were learned from.
        basis: the frozen directions.
    """

    weights: Tensor
    gap: Tensor
    pairs: Pairs
    basis: RewardBasis

    def covariance(self, rows: Tensor) -> Tensor:
        """Posterior covariance of some people's weights, `[len(rows), columns, columns]` (gaussian family).

        Raises:
            ShapeError: the family has no covariance.
        """
        if self.basis.family != "gaussian":
            raise ShapeError("only the gaussian family has a covariance; fit with family='gaussian'")
        pairs = self.pairs.of_users(rows)
        choices = gaussian_choices(pairs, self.basis.temperature)
        return gaussian_covariance(choices, *_projected(pairs, self.basis), self.weights[rows]).to(self.weights)

    def variances(self, asked: Tensor, user: Tensor) -> Tensor:
        """Posterior variances of margins, `[asked]` (gaussian family).

        Args:
            asked: differences in coordinates of the basis, `[asked, columns]`.
            user: rows of the weights, `[asked]`.
        """
        choices = gaussian_choices(self.pairs, self.basis.temperature)
        return gaussian_variances(choices, *_projected(self.pairs, self.basis), self.weights, asked, user)


def fit_weights(shots: Pairs, basis: RewardBasis, *, rank_only: bool = False) -> UserWeights:
    """Everybody's weights from their pairs, each person by a small convex problem of its own.

    Args:
        shots: comparisons of the people; somebody without any gets the population's weights.
        basis: frozen directions.
        rank_only: keep people in `basis.rank` numbers: weights of `basis.leading()`, which is then the result's basis.

    Raises:
        ShapeError: pairs and basis are of different embeddings.
    """
    if shots.dim != basis.dim:
        raise ShapeError(f"the pairs have {shots.dim} numbers an embedding and the basis {basis.dim}; use one encoder")
    basis = basis.leading() if rank_only else basis
    shots = shots.compact()
    projected, offset = _projected(shots, basis)
    if basis.family == "gaussian":
        posterior = gaussian_weights(gaussian_choices(shots, basis.temperature), projected, offset, GAUSSIAN_TOLERANCE)
        return UserWeights(posterior.weights.to(projected), posterior.gap, shots, basis)
    choices: UserChoices = user_choices(shots, basis.temperature)
    prior = SimplexPrior(
        basis.population, torch.full((len(shots.users),), basis.weight_strength, device=projected.device)
    )
    solution = simplex_weights(choices, projected, prior, _TOLERANCE)
    return UserWeights(solution.weights.to(projected), solution.gap, shots, basis)


def _projected(pairs: Pairs, basis: RewardBasis) -> tuple[Tensor, Tensor]:
    """Pairs in coordinates of the basis `[pairs, columns]`, and the margin of the center `[pairs]`."""
    table = Likelihood(
        vectors=pairs.vectors,
        chosen=pairs.chosen,
        rejected=pairs.rejected,
        user=pairs.user,
        label=pairs.label,
        share=pairs.weight,
        temperature=basis.temperature,
    )
    projected = table.project(torch.cat([basis.vectors, basis.center[:, None]], dim=1).to(pairs.like))
    return projected[:, :-1], projected[:, -1]
