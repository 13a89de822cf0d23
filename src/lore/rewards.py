"""Rewards for one person out of a RUN folder: rerank, best of n, and reward functions for trainers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lore.embedding import Encoder, load_encoder
from lore.errors import DataError, StoreError
from lore.preferences import ROLES, Turns
from lore.run import Run


@dataclass(frozen=True)
class Reranked:
    """Candidates in order for one person.

    Attributes:
        user: who asked.
        personalized: whether the weights are the user's own; if not, they are the population's.
        order: positions of the candidates, best first.
        rewards: reward of each candidate, in the order they were given.
    """

    user: str | None
    personalized: bool
    order: list[int]
    rewards: list[float]

    def to_json(self) -> dict[str, Any]:
        """What `lore rerank` prints."""
        results = [{"index": index, "reward": self.rewards[index]} for index in self.order]
        return {"user": self.user, "personalized": self.personalized, "results": results}


class PersonalRewards:
    """Scores texts for people: a run's encoder, basis and weights together."""

    def __init__(self, run: Run, encoder: Encoder) -> None:
        """Pair a run with an encoder.

        Raises:
            StoreError: the encoder is not the one that the run was learned with.
        """
        for name, value in run.basis.encoder.items():
            if encoder.fingerprint.get(name) != value:
                raise StoreError(
                    f"{run.folder}: learned with another encoder ({name} was {value!r} and is "
                    f"{encoder.fingerprint.get(name)!r}); install that one, or train again"
                )
        self.run, self._encoder = run, encoder

    @classmethod
    def load(cls, folder: str | Path) -> "PersonalRewards":
        """From a RUN folder."""
        run = Run.load(folder)
        return cls(run, load_encoder(run.encoder, run.options))

    def weights(self, user: str | None) -> tuple[Tensor, bool]:
        """Weights `[columns]` for a person, and whether they are the person's own or the population's."""
        if user is not None and user in self.run.users:
            return self.run.weights_of(user), True
        return self.run.basis.population, False

    def embed(self, prompt: Any, candidates: Sequence[Any]) -> Tensor:
        """Vectors `[candidates, dim]` of responses to a prompt; both texts or lists of chat turns."""
        turns = as_turns("prompt", prompt, "user") if prompt else ()
        responses = [as_turns("candidates", candidate, "assistant") for candidate in candidates]
        return self._encoder.encode([(turns, response) for response in responses]).vectors

    def rerank(self, user: str | None, prompt: Any, candidates: Sequence[Any]) -> Reranked:
        """Order candidates for one person; the population's order for somebody unknown.

        Raises:
            DataError: there is no candidate, or one is not a text or chat turns.
        """
        if not candidates:
            raise DataError("`candidates` is empty; give at least one response")
        weights, personalized = self.weights(user)
        rewards = self.run.basis.rewards(self.embed(prompt, candidates), weights)
        order = rewards.argsort(descending=True, stable=True).tolist()
        return Reranked(user, personalized, order, rewards.tolist())

    def best_of(self, user: str | None, prompt: Any, candidates: Sequence[Any]) -> Any:
        """The candidate with the highest reward for one person."""
        return candidates[self.rerank(user, prompt, candidates).order[0]]


def as_turns(name: str, value: Any, role: str) -> Turns:
    """A text as one turn of `role`, or a list of chat turns.

    Raises:
        DataError: it is neither.
    """
    if isinstance(value, str):
        return ((role, value),)
    if isinstance(value, list) and value and all(_is_turn(turn) for turn in value):
        return tuple((turn["role"], turn["content"]) for turn in value)
    raise DataError(
        f'`{name}` must hold texts or chat turns {{"role": ..., "content": ...}}, got {type(value).__name__}'
    )


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and turn.get("role") in ROLES and isinstance(turn.get("content"), str)


def trl_reward(run: str | Path) -> Callable[..., list[float]]:
    """A reward function for TRL's trainers (`reward_funcs`) that reads a column `user_id` of the data set.

    Args:
        run: the RUN folder.

    Returns:
        A function of `prompts`, `completions` and `user_id` (lists of one length) that gives one reward each.
    """
    scorer = PersonalRewards.load(run)

    def personal_reward(
        prompts: Sequence[Any], completions: Sequence[Any], user_id: Sequence[str], **_: Any
    ) -> list[float]:
        rows = zip(prompts, completions, user_id, strict=True)
        return [scorer.rerank(user, prompt, [completion]).rewards[0] for prompt, completion, user in rows]

    return personal_reward
