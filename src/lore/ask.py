"""The comparison worth asking next: the pair whose answer is expected to tell most about a person.

Bayesian active learning by disagreement (Houlsby et al. 2011): the entropy of the expected answer less the expected
entropy of the answer, over draws of the person's weights.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lore.basis import RewardBasis
from lore.errors import ShapeError
from lore.objective import pair_loss
from lore.personalize import UserWeights

_DRAWS = 400


@dataclass(frozen=True)
class Question:
    """A pair of rows to ask about, and the information in nats that its answer is expected to give."""

    first: int
    second: int
    information: float


def next_comparison(
    people: UserWeights, basis: RewardBasis, embeddings: Tensor, candidates: Tensor, *, user: int = 0, seed: int = 0
) -> Question:
    """The most informative pair of responses for one person.

    Args:
        people: from `fit_weights`.
        basis: frozen directions.
        embeddings: of the responses, `[responses, dim]`.
        candidates: pairs of rows of `embeddings`, int64 `[candidates, 2]`.
        user: row of `people`.
        seed: of the draws.

    Raises:
        ShapeError: there are no candidates, or they are not pairs of rows.
    """
    if candidates.dim() != 2 or candidates.shape[1] != 2 or len(candidates) == 0:
        raise ShapeError(f"`candidates` must be [candidates, 2] with at least one, got {tuple(candidates.shape)}")
    draws, probability = _draws(people, basis, user, torch.Generator().manual_seed(seed))
    coordinates, common = basis.coordinates(embeddings), basis.common_rewards(embeddings)
    first, second = candidates.T
    margin = (coordinates[first] - coordinates[second]) @ draws.T.to(coordinates)
    answers = torch.sigmoid((margin + (common[first] - common[second])[:, None]) / basis.temperature)
    weight = probability.to(answers)
    information = _entropy(answers @ weight) - _entropy(answers) @ weight
    best = int(information.argmax())
    return Question(int(first[best]), int(second[best]), max(float(information[best]), 0.0))


def _entropy(probability: Tensor) -> Tensor:
    """Of a yes-or-no answer, in nats."""
    return -(torch.special.xlogy(probability, probability) + torch.special.xlog1py(1 - probability, -probability))


def _draws(people: UserWeights, basis: RewardBasis, user: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weights a person may have, `[draws, columns]`, and the probability of each draw, `[draws]`."""
    row = torch.tensor([user], device=people.weights.device)
    learned = people.weights[user].double()
    noise_free = learned.new_full((_DRAWS,), 1 / _DRAWS)
    if basis.family == "gaussian":
        root = torch.linalg.cholesky(people.covariance(row)[0].double())
        noise = torch.randn(_DRAWS, basis.columns, generator=generator, dtype=torch.float64).to(learned)
        return learned + noise @ root.T, noise_free
    # Particles: draws from a flat Dirichlet, weighted by the likelihood of what the person has answered.
    uniform = torch.rand(_DRAWS, basis.columns, generator=generator, dtype=torch.float64).to(learned)
    exponential = uniform.log().neg()
    particles = exponential / exponential.sum(1, keepdim=True)
    own = people.pairs.of_users(row)
    if len(own) == 0:
        return particles, noise_free
    difference = (
        own.vectors[own.chosen] if own.rejected is None else own.vectors[own.chosen] - own.vectors[own.rejected]
    )
    margin = basis.coordinates(difference).double() @ particles.T
    loss = (own.weight.double()[:, None] * pair_loss(margin, own.label.double()[:, None], basis.temperature)).sum(0)
    return particles, torch.softmax(-loss, dim=0)
