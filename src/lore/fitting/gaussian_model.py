"""Some pairs around a population direction, and the covariances of tastes that may be learned from them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

import torch
from torch import Tensor

from lore.fitting.basis import RewardBasis
from lore.fitting.config import FitConfig
from lore.fitting.likelihood import GAUSSIAN_TOLERANCE, design_effect, gaussian_problems, likelihood
from lore.pairs.table import Pairs
from lore.solvers.gaussian_em import TasteCovariance, covariance_em, principal_features
from lore.solvers.gaussian_weights import Posterior, gaussian_variances, gaussian_weights
from lore.solvers.objective import Likelihood
from lore.solvers.user_problems import UserProblems

_SHARED_ITEMS = 2.0  # median design effect of the pairs from which items count as shared


@dataclass(frozen=True)
class GaussianSettings:
    """Hyper-parameters of the covariance of tastes.

    Attributes:
        rank: learned tastes; 0 for none, or for tastes without a preferred direction.
        tempering: the likelihood is raised to 1/tempering while the covariance is learned.
        initial_variance: of every feature, at temperature 1, that learning begins with; 0 for no tastes at all.
        em_iterations: of expectation-maximization.
        covariance_scale: factor of the covariance that was learned, which fits the training items above all.
        center_scale: length of the center, relative to the pooled direction.
        validation: log loss on held-out groups, in nats; infinite if it was not measured.
    """

    rank: int
    tempering: float
    initial_variance: float
    em_iterations: int
    covariance_scale: float
    center_scale: float
    validation: float


def item_features(pairs: Pairs) -> Tensor:
    """Return principal components `[dim, features]` of the items that are compared.

    Other items would spend directions on what cannot be learned.
    """
    compared = pairs.chosen if pairs.rejected is None else torch.cat([pairs.chosen, pairs.rejected])
    return principal_features(pairs.vectors[compared.unique()]).map


@dataclass(frozen=True)
class GaussianModel:
    """Pairs around a center, in coordinates of features.

    Attributes:
        pairs: whose choices are modelled.
        config: how to fit.
        center: population direction, `[dim]`.
        features: `[dim, features]`.
        table: likelihood of the pairs.
        offset: margins of the center, `[pairs]`.
        projected: differences of features, `[pairs, features]`.
        users: the users' own problems, as `fit_weights` has them.
    """

    pairs: Pairs
    config: FitConfig
    center: Tensor
    features: Tensor
    table: Likelihood
    offset: Tensor
    projected: Tensor
    users: UserProblems

    @classmethod
    def of(cls, pairs: Pairs, config: FitConfig, center: Tensor, features: Tensor) -> "GaussianModel":
        """Project the pairs on center and features."""
        table = likelihood(pairs, config.average, config.temperature)
        return cls(
            pairs=pairs,
            config=config,
            center=center,
            features=features,
            table=table,
            offset=table.project(center[:, None]).squeeze(1),
            projected=table.project(features),
            users=gaussian_problems(pairs, config.temperature),
        )

    def with_center_scale(self, scale: float) -> "GaussianModel":
        """Return the same model with its center multiplied by a number."""
        return replace(self, center=scale * self.center, offset=scale * self.offset)

    @property
    def max_rank(self) -> int:
        """Number of features."""
        return self.features.shape[1]

    @cached_property
    def shares_items(self) -> bool:
        """True if most pairs are of users whose pairs share items."""
        return float(design_effect(self.pairs)[self.pairs.user].median()) >= _SHARED_ITEMS

    def covariance_path(self, rank: int, tempering: float, initial_variance: float) -> Iterator[TasteCovariance]:
        """Yield the covariance of tastes after each iteration, without end."""
        pairs = self.pairs
        share = pairs.weight / tempering
        tempered = UserProblems(pairs.user, pairs.label, share, len(pairs.users), self.config.temperature)
        variance = initial_variance * self.config.temperature**2
        return covariance_em(tempered, self.projected, self.offset, min(rank, self.max_rank), variance)

    def isotropic(self, variance: float) -> TasteCovariance:
        """Return a covariance of tastes without a preferred direction."""
        root = variance**0.5 * self.config.temperature
        return TasteCovariance(root * torch.eye(self.max_rank, dtype=torch.float64, device=self.offset.device), 0.0)

    def covariance(self, settings: GaussianSettings) -> TasteCovariance:
        """Learn the covariance of tastes under some settings."""
        if settings.em_iterations == 0:
            return self.isotropic(settings.initial_variance).scaled(settings.covariance_scale)
        path = self.covariance_path(settings.rank, settings.tempering, settings.initial_variance)
        return next(islice(path, settings.em_iterations - 1, None)).scaled(settings.covariance_scale)

    def basis(self, covariance: TasteCovariance, rank: int) -> RewardBasis:
        """Return the basis of a covariance; if that is zero every user is the center."""
        vectors = self.features @ covariance.root.to(self.features)
        return RewardBasis(
            vectors=vectors,
            center=self.center,
            population=torch.zeros_like(vectors[0]),
            family="gaussian",
            rank=min(rank, self.max_rank),
            temperature=self.config.temperature,
        )

    def margins(self, covariance: TasteCovariance, weights: Tensor) -> Tensor:
        """Return the margins of the pairs `[pairs]` under weights `[users, features]`."""
        return self.table.margins(self._along(covariance), weights.to(self.offset)) + self.offset

    def posterior(
        self, covariance: TasteCovariance, tolerance: float = GAUSSIAN_TOLERANCE, start: Tensor | None = None
    ) -> Posterior:
        """Learn every user's weights, as `fit_weights` does."""
        return gaussian_weights(self.users, self._along(covariance), self.offset, tolerance, start=start)

    def variances(self, covariance: TasteCovariance, weights: Tensor, targets: Tensor, user: Tensor) -> Tensor:
        """Return posterior variances of margins, `[targets]`.

        Args:
            covariance: of tastes.
            weights: of the users, `[users, features]`.
            targets: differences in coordinates of the tastes, `[targets, features]`.
            user: of each target, `[targets]`.
        """
        return gaussian_variances(self.users, self._along(covariance), self.offset, weights, targets, user)

    def _along(self, covariance: TasteCovariance) -> Tensor:
        """Return the pairs in coordinates of the tastes, `[pairs, features]`."""
        return self.projected @ covariance.root.to(self.projected)
