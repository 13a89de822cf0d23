"""Rewards for one user out of a RUN folder: rerank, best of n, and reward functions for trainers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from scipy.special import ndtri
from torch import Tensor

from lore.data.messages import MessageFault, Messages, conversation_of, parse_messages
from lore.embedding.encoder import Encoder
from lore.embedding.load import load_encoder
from lore.errors import DataError, StoreError
from lore.fitting.basis import RewardBasis
from lore.runs.artifacts import Run
from lore.runs.folder import RunFolder

if TYPE_CHECKING:
    from lore.runs.data import RunData

_NORMAL = float(ndtri(0.975))  # half of a 95 % interval, in standard deviations
_DRAWS = 4_096  # of a user's weights, for the probability that a candidate is the best


@dataclass(frozen=True)
class Reranked:
    """Candidates in order for one user.

    Attributes:
        user: who asked.
        personalized: whether the weights are the user's own; if not, they are the population's, or the basis has no
            tastes and all users get the same.
        order: positions of the candidates, best first.
        rewards: reward of each candidate, in the order they were given.
        intervals: 95 % interval of each reward, in that order (gaussian family). None if the run does not store this
            user's comparisons, or if the basis is zero. Uncertainty about the population is not included.
        best: probability that each candidate is the best for this user, in that order; None where intervals are.
    """

    user: str | None
    personalized: bool
    order: list[int]
    rewards: list[float]
    intervals: list[tuple[float, float]] | None = None
    best: list[float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what `lore rerank` prints."""
        results: list[dict[str, Any]] = [{"index": index, "reward": self.rewards[index]} for index in self.order]
        if self.intervals is not None and self.best is not None:
            for result, index in zip(results, self.order, strict=True):
                low, high = self.intervals[index]
                result |= {"low": low, "high": high, "probability_best": self.best[index]}
        return {"user": self.user, "personalized": self.personalized, "results": results}


class PersonalRewards:
    """Scores texts for users: a run's encoder, basis and weights together."""

    def __init__(self, run: Run, encoder: Encoder) -> None:
        """Pair a run with an encoder.

        Raises:
            StoreError: the encoder is not the one that the run was learned with.
        """
        require_encoder(run, encoder)
        self.run, self._encoder = run, encoder

    @classmethod
    def load(cls, folder: str | Path, encoder: Encoder | None = None) -> "PersonalRewards":
        """Load a RUN folder, and its encoder unless that is given."""
        run = Run.load(folder)
        return cls(run, encoder or load_encoder(run.encoder, run.options))

    def weights(self, user: str | int | None) -> tuple[Tensor, bool]:
        """Weights `[columns]` for a user, and whether they are the user's own; not so where all users have the same.

        Raises:
            DataError: the id is neither a text nor a whole number.
        """
        name = _identifier(user)
        if name is not None and name in self.run.users:
            return self.run.weights_of(name), self.run.basis.has_tastes
        return self.run.basis.population, False

    def embed(self, prompt: Any, candidates: Sequence[Any]) -> Tensor:
        """Vectors `[candidates, dim]` of responses to a prompt; both texts or lists of chat messages."""
        messages = _messages("prompt", prompt, "user") if prompt else ()
        responses = [_messages("candidates", candidate, "assistant") for candidate in candidates]
        return self._encoder.encode([conversation_of(messages, response) for response in responses]).vectors

    def rerank(self, user: str | int | None, prompt: Any, candidates: Sequence[Any]) -> Reranked:
        """Order candidates for one user; the population's order for an unknown user.

        Raises:
            DataError: there is no list of candidates, or one is not a text or chat messages.
        """
        if isinstance(candidates, str):
            raise DataError("`candidates` must be a list of responses, got one text; put it in a list")
        if not candidates:
            raise DataError("`candidates` is empty; give at least one response")
        user = _identifier(user)
        weights, personalized = self.weights(user)
        covariance = self.covariance(user) if self.run.basis.family == "gaussian" else None
        return reranked(user, personalized, self.run.basis, self.embed(prompt, candidates), weights, covariance)

    def each(self, users: Sequence[str | int | None], prompts: Sequence[Any], responses: Sequence[Any]) -> list[float]:
        """Return the reward of each response to its prompt for its user; all are encoded together.

        Raises:
            DataError: there are not equally many of them, or one is not a text or chat messages.
        """
        if not len(users) == len(prompts) == len(responses):
            raise DataError(
                f"`users`, `prompts` and `responses` must be equally many, got {len(users)}, {len(prompts)} and "
                f"{len(responses)}"
            )
        if not users:
            return []
        conversations = [
            conversation_of(
                _messages("prompts", prompt, "user") if prompt else (), _messages("responses", response, "assistant")
            )
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        vectors = self._encoder.encode(conversations).vectors
        weights = torch.stack([self.weights(user)[0] for user in users]).to(vectors)
        basis = self.run.basis
        rewards = (basis.coordinates(vectors) * weights).sum(dim=1) + basis.common_rewards(vectors)
        return [float(reward) for reward in rewards]

    def covariance(self, user: str | int | None) -> Tensor | None:
        """Posterior covariance of a user's weights, `[columns, columns]`; the prior's for an unknown user.

        None for a user whose comparisons the run does not hold. The first call for a user of the run reads its
        comparisons.
        """
        user = _identifier(user)
        if user is None or user not in self.run.users:
            return torch.eye(self.run.basis.columns, dtype=torch.float64)
        from lore.runs.added import learned_covariance  # reading comparisons takes more than scoring does

        return learned_covariance(self.run, self._data, user)

    @cached_property
    def _data(self) -> "RunData | None":
        from lore.runs.added import run_data

        return run_data(RunFolder(self.run.folder))

    def best_of(self, user: str | int | None, prompt: Any, candidates: Sequence[Any]) -> Any:
        """Return the candidate with the highest reward for one user."""
        return candidates[self.rerank(user, prompt, candidates).order[0]]


def require_encoder(run: Run, encoder: Encoder) -> None:
    """Refuse an encoder that is not the one a run was learned with.

    Raises:
        StoreError: it is another one.
    """
    for name, value in run.basis.encoder.items():
        if encoder.fingerprint.get(name) != value:
            raise StoreError(
                f"{run.folder}: learned with another encoder ({name} was {value!r} and is "
                f"{encoder.fingerprint.get(name)!r}); install that one, or train again"
            )


def reranked(
    user: str | None,
    personalized: bool,
    basis: RewardBasis,
    vectors: Tensor,
    weights: Tensor,
    covariance: Tensor | None,
) -> Reranked:
    """Candidates in order, with intervals where the covariance of the weights is known.

    Args:
        user: who asks.
        personalized: whether the weights are theirs.
        basis: shared directions.
        vectors: of the candidates, `[candidates, dim]`.
        weights: `[columns]`.
        covariance: of the weights, `[columns, columns]`, or None.
    """
    rewards = basis.rewards(vectors, weights)
    order = rewards.argsort(descending=True, stable=True).tolist()
    if covariance is None or not bool(basis.vectors.any()):  # then nothing says how far a user may stray
        return Reranked(user, personalized, order, rewards.tolist())
    along = basis.coordinates(vectors).double() @ torch.linalg.cholesky(covariance)
    spread = _NORMAL * along.norm(dim=1)
    intervals = torch.stack([rewards - spread, rewards + spread], dim=1).tolist()
    # How the candidates' rewards stray together: as many numbers as there are candidates, or columns.
    strayed = along if along.shape[0] >= along.shape[1] else torch.linalg.qr(along.T).R.T
    alike, which = vectors.unique(dim=0, return_inverse=True)  # candidates that are the same share their chance
    first = torch.full((len(alike),), len(vectors)).scatter_reduce_(0, which, torch.arange(len(vectors)), "amin")
    winner = (rewards[first] + _draws(strayed.shape[1]) @ strayed[first].T).argmax(dim=1)
    shares = torch.bincount(winner, minlength=len(alike)) / torch.bincount(which, minlength=len(alike)) / _DRAWS
    best = shares[which]
    ends = [(low, high) for low, high in intervals]
    return Reranked(user, personalized, order, rewards.tolist(), ends, best.tolist())


@cache
def _draws(numbers: int) -> Tensor:
    """Return draws that are the same for all users and requests, so that a repeated request has the same answer."""
    return torch.randn(_DRAWS, numbers, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _messages(name: str, value: Any, role: str) -> Messages:
    """Return a text as one message of `role`, or a list of chat messages as it is.

    Raises:
        DataError: it is neither, or cannot be encoded.
    """
    try:
        return parse_messages(name, value, role, _encodable)
    except MessageFault as fault:
        raise DataError(f"{fault.kind}; {fault.remedy}") from None


def _encodable(name: str, text: Any) -> str:
    """Return a text that can be encoded."""
    if not isinstance(text, str):
        raise MessageFault(
            f"`{name}` must hold texts or chat messages, got {type(text).__name__}",
            'give a text, or messages {"role": ..., "content": ...}',
        )
    if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        raise MessageFault(f"`{name}` must hold whole characters, got half of a surrogate pair", "clean the text")
    return text


def _identifier(user: Any) -> str | None:
    """Return an id as the run has it; a whole number is the id of its digits."""
    if user is None or isinstance(user, str):
        return user
    if isinstance(user, Integral) and not isinstance(user, bool):
        return str(user)
    raise DataError(f"`user` must be a text or a whole number, got {type(user).__name__}; give the id of training")


def trl_reward(run: str | Path, encoder: Encoder | None = None) -> Callable[..., list[float]]:
    """Return a reward function for TRL's trainers (`reward_funcs`) that reads a column `user_id` of the data set.

    Args:
        run: the RUN folder.
        encoder: that of the run; loaded by its name by default.

    Returns:
        A function of `prompts`, `completions` and `user_id` (lists of one length) that gives one reward each.
    """
    scorer = PersonalRewards.load(run, encoder)

    def personal_reward(
        prompts: Sequence[Any], completions: Sequence[Any], user_id: Sequence[str | int], **_: Any
    ) -> list[float]:
        return scorer.each(list(user_id), list(prompts), list(completions))

    return personal_reward


def verl_score(run: str | Path, encoder: Encoder | None = None) -> Callable[..., float]:
    """Return a `compute_score` for verl: the reward of a solution for the user in `extra_info["user_id"]`.

    Args:
        run: the RUN folder.
        encoder: that of the run; loaded by its name by default.

    Returns:
        A function of `data_source`, `solution_str`, `ground_truth` and `extra_info`, of which the prompt may be in
        `extra_info["prompt"]`.
    """
    scorer = PersonalRewards.load(run, encoder)

    def compute_score(
        data_source: str, solution_str: str, ground_truth: Any = None, extra_info: dict[str, Any] | None = None
    ) -> float:
        del data_source, ground_truth  # a taste has no right answer
        extra = extra_info or {}
        return scorer.each([extra.get("user_id")], [extra.get("prompt")], [solution_str])[0]

    return compute_score
