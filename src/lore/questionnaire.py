"""`lore ask`: questions for one person out of a RUN folder, each chosen after the answers before it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lore.ask import WORTH, Question, next_comparison
from lore.embedding import Embeddings
from lore.errors import DataError
from lore.pairs import Pairs
from lore.personalize import fit_weights
from lore.preferences import Preferences, as_json, text_of
from lore.run import Run
from lore.sources import load

_MOST = 20_000  # pairs of responses to one prompt among which a question is chosen


@dataclass(frozen=True)
class Choice:
    """Two responses to choose between, as texts, and what the question is worth.

    Attributes:
        prompts: what each response answers; equal, or empty, in most data.
        responses: the two responses.
        question: rows, information and gain.
    """

    prompts: tuple[str, str]
    responses: tuple[str, str]
    question: Question


class Questionnaire:
    """Asks one person about responses that the run holds, and learns from every answer."""

    def __init__(self, run: str | Path, user: str, *, worth: float = WORTH, seed: int = 0) -> None:
        """For a finished run.

        Args:
            run: the RUN folder.
            user: who answers; may be new. What the run knows of them is left aside.
            worth: expected gain in accuracy below which a question says `stop`.
            seed: of the draw where there are very many pairs.
        """
        found = Run.load(run)
        self._basis, self._user, self._worth = found.basis, user, worth
        self._preferences = load(found.folder / "preferences.parquet")
        store = Embeddings.load(found.folder / "embeddings")
        self._vectors = store.vectors[store.rows(self._preferences)].float()
        self._candidates = questions_of(self._preferences, seed)
        self._answers: list[tuple[int, int]] = []

    def next(self) -> Choice:
        """The question worth asking now."""
        question = next_comparison(
            fit_weights(self._pairs(), self._basis), self._basis, self._vectors, self._candidates, worth=self._worth
        )
        sides = [self._preferences.conversation(row) for row in (question.first, question.second)]
        prompts = tuple(text_of(prompt) if prompt else "" for prompt, _ in sides)
        responses = tuple(text_of(response) for _, response in sides)
        return Choice((prompts[0], prompts[1]), (responses[0], responses[1]), question)

    def answer(self, choice: Choice, *, first: bool) -> None:
        """What the person chose; the pair is not asked again."""
        rows = (choice.question.first, choice.question.second)
        self._answers.append(rows if first else rows[::-1])
        if self._candidates is None:
            return
        asked = (self._candidates == torch.tensor(rows)).all(dim=1)
        self._candidates = self._candidates[~asked]

    @property
    def across_prompts(self) -> bool:
        """Whether responses to different prompts are compared."""
        return self._candidates is None

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to ask."""
        return self._candidates is not None and len(self._candidates) == 0

    def comparisons(self) -> list[dict[str, Any]]:
        """The answers as rows of a file of comparisons; only those between responses to one prompt can be written so.

        Raises:
            DataError: the responses that were compared answer different prompts.
        """
        rows = []
        for chosen, rejected in self._answers:
            (prompt, better), (other, worse) = (self._preferences.conversation(row) for row in (chosen, rejected))
            if prompt != other:
                raise DataError("the answers compare responses to different prompts: no file of comparisons holds that")
            rows.append(
                {
                    "user_id": self._user,
                    "prompt": as_json(prompt),
                    "chosen": as_json(better),
                    "rejected": as_json(worse),
                }
            )
        return rows

    def weights(self) -> Tensor:
        """The person's weights from the answers, `[columns]`."""
        return fit_weights(self._pairs(), self._basis).weights[0]

    def _pairs(self) -> Pairs:
        chosen, rejected = torch.tensor(self._answers, dtype=torch.long).view(-1, 2).T
        return Pairs.from_rows(self._vectors, chosen, rejected, torch.zeros_like(chosen), users=[self._user])


def questions_of(preferences: Preferences, seed: int) -> Tensor | None:
    """Pairs of responses to one prompt, `[candidates, 2]`; None where items are compared across prompts."""
    if preferences.ratings is not None and preferences.ratings.across:
        return None
    by_prompt: dict[int, list[int]] = {}
    for row, prompt in enumerate(preferences.row_prompt.tolist()):
        by_prompt.setdefault(prompt, []).append(row)
    pairs = [torch.combinations(torch.tensor(rows)) for rows in by_prompt.values() if len(rows) > 1]
    if not pairs:
        return None
    pool = torch.cat(pairs)
    return pool[torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[:_MOST]]
