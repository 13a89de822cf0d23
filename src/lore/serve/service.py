"""What the server does, without HTTP: rewards for people, and weights that follow their choices."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lore.embedding import Embeddings
from lore.pairs import Pairs
from lore.personalize import fit_weights
from lore.rewards import PersonalRewards, Reranked
from lore.sources import load
from lore.users import Event, UserStore


class Service:
    """A run, its encoder, and the store of what people chose since."""

    def __init__(self, rewards: PersonalRewards, store: UserStore) -> None:
        self._rewards, self._store = rewards, store
        folder = rewards.run.folder
        self._learned = Pairs.from_embeddings(
            load(folder / "preferences.parquet"), Embeddings.load(folder / "embeddings")
        )
        self._row = {user: row for row, user in enumerate(self._learned.users)}

    def weights(self, user: str) -> tuple[Tensor, int, int]:
        """Weights `[columns]` of a person, from how many comparisons, and from how many events.

        Solved from the run's own comparisons and the events by the function that training uses.
        """
        events = self._store.events(user)
        if not events and user not in self._row:
            return self._rewards.run.basis.population, 0, 0
        pairs = self._pairs(user, events)
        return fit_weights(pairs, self._rewards.run.basis).weights[0], len(pairs), len(events)

    def _pairs(self, user: str, events: Sequence[Event]) -> Pairs:
        """All choices of a person as pairs of rows."""
        known = self._learned.of_users(torch.tensor([self._row[user]] if user in self._row else [], dtype=torch.long))
        known = known.compact()
        vectors = [known.vectors] + [self._embed(event) for event in events]
        first = len(known.vectors) + 2 * torch.arange(len(events))
        rejected = known.rejected if known.rejected is not None else torch.zeros(0, dtype=torch.long)
        chosen = torch.cat([known.chosen, first])
        return Pairs.from_rows(
            torch.cat(vectors),
            chosen,
            torch.cat([rejected, first + 1]),
            torch.zeros(len(chosen), dtype=torch.long),
            users=[user],
            weight=torch.cat([known.weight, torch.ones(len(events))]),
            label=torch.cat([known.label, torch.ones(len(events))]),
        )

    def _embed(self, event: Event) -> Tensor:
        sides = [
            [{"role": role, "content": content} for role, content in side] for side in (event.chosen, event.rejected)
        ]
        prompt = [{"role": role, "content": content} for role, content in event.prompt]
        return self._rewards.embed(prompt, sides)

    def rerank(self, user: str | None, prompt: Any, candidates: Sequence[Any]) -> Reranked:
        """Order candidates for a person; by the population for somebody unknown."""
        if user is None:
            return self._rewards.rerank(None, prompt, candidates)
        weights, comparisons, _ = self.weights(user)
        rewards = self._rewards.run.basis.rewards(self._rewards.embed(prompt, candidates), weights)
        return Reranked(user, comparisons > 0, rewards.argsort(descending=True, stable=True).tolist(), rewards.tolist())

    def feedback(self, events: Sequence[Event]) -> int:
        """Commit choices; how many were new."""
        return self._store.append(events)
