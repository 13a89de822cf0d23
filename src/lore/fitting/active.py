"""The comparison worth asking next: the pair whose answer is expected to tell most about a user.

Bayesian active learning by disagreement (Houlsby et al. 2011): the entropy of the expected answer less the expected
entropy of the answer. A user's weights are taken as normal: the posterior of the gaussian family; for the simplex
family the mean and covariance of draws that the likelihood weighs. Then a margin is normal too, and expectations over
it are sums over fifteen nodes (Gauss and Hermite).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lore.errors import ConfigError, ShapeError
from lore.fitting.basis import RewardBasis
from lore.fitting.personalize import UserWeights
from lore.pairs.table import Pairs
from lore.solvers.objective import moderated_margins, pair_loss

_DRAWS = 4_096  # of simplex weights
_NODES = 15
_SHORTLIST = 256  # responses of a table of which all pairs are candidates
_LEADING = 8  # directions of a user's uncertainty along which the shortlist is taken
_SAMPLE = 512  # candidates on which the worth of an answer is judged
MIN_GAIN = 1e-4  # expected gain in accuracy below which asking more is not worth it: single answers tell little


@dataclass(frozen=True)
class Question:
    """A pair of rows to ask about.

    Attributes:
        first: row of the embeddings.
        second: row of the embeddings.
        information: nats that the answer is expected to give.
        gain: how much more of this user's choices among the candidates are expected to be predicted after the answer.
        stop: True if `gain` is below `min_gain`.
    """

    first: int
    second: int
    information: float
    gain: float
    stop: bool


def next_comparison(
    users: UserWeights,
    basis: RewardBasis,
    embeddings: Tensor,
    candidates: Tensor | None = None,
    *,
    user: int = 0,
    min_gain: float = MIN_GAIN,
) -> Question:
    """Return the most informative pair of responses for one user.

    Args:
        users: from `fit_weights`.
        basis: frozen directions.
        embeddings: of the responses, `[responses, dim]`.
        candidates: pairs of rows of `embeddings`, int64 `[candidates, 2]`; without them all pairs of a shortlist of 256
            responses: those that lie furthest out along the directions in which least is known of the user.
        user: row of `users`.
        min_gain: expected gain in accuracy below which the question says `stop`.

    Raises:
        ShapeError: there are no candidates, or they are not pairs of rows.
    """
    return next_comparisons(users, basis, embeddings, candidates, user=user, min_gain=min_gain, count=1)[0]


def next_comparisons(
    users: UserWeights,
    basis: RewardBasis,
    embeddings: Tensor,
    candidates: Tensor | None = None,
    *,
    count: int,
    user: int = 0,
    min_gain: float = MIN_GAIN,
) -> list[Question]:
    """Several questions to ask at once, which do not ask the same thing twice.

    Each is chosen as if the ones before had been answered, whatever the answers: they lower the covariance alone.

    Args:
        users: from `fit_weights`.
        basis: frozen directions.
        embeddings: of the responses, `[responses, dim]`.
        candidates: as for `next_comparison`.
        count: how many; no pair is asked twice, so that there may be fewer.
        user: row of `users`.
        min_gain: as for `next_comparison`.

    Raises:
        ShapeError: there are no candidates, or they, or the user, are not rows of what they should be rows of.
    """
    if count < 1:
        raise ConfigError(f"`count` must be 1 or more, got {count}")
    if not 0 <= user < len(users.weights):
        raise ShapeError(f"`user` must be a row of `users`, 0 to {len(users.weights) - 1}, got {user}")
    posterior = _user_posterior(users, basis, user)
    coordinates, common = basis.coordinates(embeddings).float(), basis.common_rewards(embeddings).float()
    if candidates is None:
        candidates = _shortlisted(coordinates, common, posterior)
    if candidates.dim() != 2 or candidates.shape[1] != 2 or len(candidates) == 0:
        raise ShapeError(
            f"`candidates` must be [candidates, 2] with at least one, got {tuple(candidates.shape)}; it takes two "
            "responses to ask about"
        )
    if candidates.dtype != torch.long or int(candidates.min()) < 0 or int(candidates.max()) >= len(embeddings):
        raise ShapeError(
            f"`candidates` must be int64 rows of `embeddings`, 0 to {len(embeddings) - 1}, got {candidates.dtype} "
            f"{int(candidates.min())} to {int(candidates.max())}"
        )
    first, second = candidates.T
    low, high = candidates.sort(dim=1).values.T
    pair = low * len(embeddings) + high  # one number for each pair, in whichever order it was given
    difference = (coordinates[first] - coordinates[second]) / basis.temperature
    mean = difference @ posterior.mean.float() + (common[first] - common[second]) / basis.temperature
    if not bool(mean.isfinite().all()):
        raise ShapeError("`embeddings` must be finite, and some hold infinities or NaN; embed again")
    used = torch.zeros(len(candidates), dtype=torch.bool, device=mean.device)
    sample = torch.linspace(0, len(candidates) - 1, min(len(candidates), _SAMPLE), device=mean.device).long()
    covariance, questions = posterior.covariance, list[Question]()
    while len(questions) < count and not bool(used.all()):
        spread = difference @ covariance.float()
        variance = (spread * difference).sum(dim=1)
        scores = information(mean, variance).masked_fill(used, -torch.inf)
        best = int(scores.argmax())
        gain = _gain(mean[sample], variance[sample], spread[sample] @ difference[best], mean[best], variance[best])
        rows = (int(first[best]), int(second[best]))
        questions.append(Question(*rows, max(float(scores[best]), 0.0), gain, stop=gain < min_gain))
        used |= pair == pair[best]
        covariance = _answered(covariance, difference[best].double(), mean[best].double())
    return questions


@dataclass(frozen=True)
class _UserPosterior:
    """Mean `[columns]` and covariance `[columns, columns]` of what a user's weights may be, in float64."""

    mean: Tensor
    covariance: Tensor


def information(mean: Tensor, variance: Tensor) -> Tensor:
    """Nats that an answer tells about a normal margin, `[candidates]`, from its mean and variance of that shape."""
    nodes, weights = _nodes(mean)
    margin = mean + variance.clamp(min=0).sqrt() * nodes[:, None]
    chance = torch.sigmoid(margin)
    # The entropy of a yes with the odds exp(margin) is softplus(margin) - margin * chance.
    expected = weights @ (torch.nn.functional.softplus(margin) - margin * chance)
    certain = (weights @ chance).clamp(1e-7, 1 - 1e-7)
    return -torch.xlogy(certain, certain) - torch.special.xlog1py(1 - certain, -certain) - expected


def _nodes(like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights for expectations over a standard normal, `[nodes]` each."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    return torch.from_numpy(nodes).to(like), torch.from_numpy(weights / weights.sum()).to(like)


def _gain(mean: Tensor, variance: Tensor, shared: Tensor, asked_mean: Tensor, asked_variance: Tensor) -> float:
    """Return the expected gain in accuracy on some pairs from the answer to another one.

    Args:
        mean: of the pairs' margins, `[pairs]`.
        variance: of these, `[pairs]`.
        shared: their covariance with the margin that is asked about, `[pairs]`.
        asked_mean: of the margin that is asked about.
        asked_variance: of it.
    """
    nodes, weights = _nodes(mean)
    margin = asked_mean + asked_variance.sqrt() * nodes
    slope = shared / asked_variance.clamp(min=torch.finfo(mean.dtype).tiny)
    before = _expected_accuracy(mean, variance)
    after = mean.new_zeros(())
    for chance in (torch.sigmoid(margin), torch.sigmoid(-margin)):
        answer = weights @ chance
        moment = weights * chance / answer
        new_mean = moment @ margin
        new_variance = moment @ (margin - new_mean).square()
        lowered = variance + slope.square() * (new_variance - asked_variance)
        after = after + answer * _expected_accuracy(mean + slope * (new_mean - asked_mean), lowered)
    return max(float(after - before), 0.0)


def _expected_accuracy(mean: Tensor, variance: Tensor) -> Tensor:
    """Mean probability of the likelier answers, of margins `[pairs]`."""
    return torch.sigmoid(moderated_margins(mean.abs(), variance.clamp(min=0), temperature=1.0)).mean()


def _answered(covariance: Tensor, difference: Tensor, mean: Tensor) -> Tensor:
    """Return the covariance after an answer: the curvature of its loss added to the precision, in one direction."""
    chance = torch.sigmoid(mean)
    along = covariance @ difference
    curvature = chance * (1 - chance)
    return covariance - torch.outer(along, along) * curvature / (1 + curvature * (difference @ along))


def _shortlisted(coordinates: Tensor, common: Tensor, posterior: _UserPosterior) -> Tensor:
    """All pairs of the responses that lie furthest out where least is known of the user, `[candidates, 2]`."""
    values, directions = torch.linalg.eigh(posterior.covariance)
    leading = (directions * values.clamp(min=0).sqrt())[:, -_LEADING:].to(coordinates)
    along = torch.cat([coordinates @ leading, (coordinates @ posterior.mean.to(coordinates) + common)[:, None]], dim=1)
    each = max(_SHORTLIST // (2 * along.shape[1]), 1)
    outer = min(each, len(along))
    ends = [along.topk(outer, dim=0, largest=largest).indices.flatten() for largest in (True, False)]
    chosen = torch.cat(ends).unique()
    return torch.combinations(chosen) if len(chosen) > 1 else torch.empty(0, 2, dtype=torch.long)


def _user_posterior(users: UserWeights, basis: RewardBasis, user: int) -> _UserPosterior:
    row = torch.tensor([user], device=users.weights.device)
    mean = users.weights[user].double()
    if basis.family == "gaussian":
        return _UserPosterior(mean, users.covariance(row)[0].double())
    # Draws from a flat Dirichlet, weighed by the likelihood of what the user has answered.
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(_DRAWS, basis.columns, generator=generator, dtype=torch.float64).to(mean)
    draws = uniform.log().neg()
    draws = draws / draws.sum(dim=1, keepdim=True)
    weight = torch.softmax(-_losses(users.pairs.for_users(row), basis, draws), dim=0)
    mean = weight @ draws
    centered = draws - mean
    return _UserPosterior(mean, centered.T @ (weight[:, None] * centered))


def _losses(pairs: Pairs, basis: RewardBasis, draws: Tensor) -> Tensor:
    """Sum the loss of one user's answers at each draw of weights, `[draws]`."""
    if len(pairs) == 0:
        return draws.new_zeros(len(draws))
    margin = (pairs.differences() @ basis.vectors.to(pairs.empty)).double() @ draws.T
    return (pairs.weight.double()[:, None] * pair_loss(margin, pairs.label.double()[:, None], basis.temperature)).sum(0)
