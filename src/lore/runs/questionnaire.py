"""`lore ask`: questions for one user out of a RUN folder, each chosen after the answers before it."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lore.data.builder import PreferencesBuilder
from lore.data.formats import load
from lore.data.issues import SourceLocations
from lore.data.messages import as_json, text_of
from lore.data.preferences import Preferences
from lore.embedding import Embeddings
from lore.errors import DataError
from lore.fitting.active import MIN_GAIN, Question, next_comparison
from lore.fitting.personalize import fit_weights
from lore.pairs.table import Pairs
from lore.runs.added import add_to_run, run_data, save_with_added
from lore.runs.artifacts import Run
from lore.runs.folder import RunFolder

_SHOWN = 2  # responses at each end of what was learned
_MAX_PAIRS = 20_000  # pairs of responses to one prompt among which a question is chosen


@dataclass(frozen=True)
class QuestionTexts:
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
    """Asks one user about responses that the run holds, and learns from every answer."""

    def __init__(self, run: str | Path, user: str, *, min_gain: float = MIN_GAIN, seed: int = 0) -> None:
        """Open a finished run.

        Args:
            run: the RUN folder.
            user: who answers; may be new. Weights that the run has for this user are not used.
            min_gain: expected gain in accuracy below which a question says `stop`.
            seed: of the draw where there are very many pairs.
        """
        self._run, folder = Run.load(run), RunFolder(Path(run))
        self._folder, self._basis = folder, self._run.basis
        self._user, self._min_gain = user, min_gain
        self._preferences = load(folder.preferences)
        store = Embeddings.load(folder.embeddings)
        self._store, self._vectors = store, store.vectors[store.rows(self._preferences)].float()
        self._candidates = candidate_pairs(self._preferences, seed)
        self._answers: list[tuple[int, int]] = []

    def next(self) -> QuestionTexts:
        """Return the question worth asking now."""
        question = next_comparison(
            fit_weights(self._pairs(), self._basis),
            self._basis,
            self._vectors,
            self._candidates,
            min_gain=self._min_gain,
        )
        sides = [self._preferences.conversation(row) for row in (question.first, question.second)]
        prompts = tuple(text_of(prompt) if prompt else "" for prompt, _ in sides)
        responses = tuple(text_of(response) for _, response in sides)
        return QuestionTexts((prompts[0], prompts[1]), (responses[0], responses[1]), question)

    def answer(self, choice: QuestionTexts, *, first: bool) -> None:
        """Take what the user chose; the pair is not asked again."""
        rows = (choice.question.first, choice.question.second)
        self._answers.append(rows if first else rows[::-1])
        if self._candidates is None:
            return
        answered = (self._candidates == torch.tensor(rows)).all(dim=1)
        self._candidates = self._candidates[~answered]

    @property
    def across_prompts(self) -> bool:
        """True if responses to different prompts are compared."""
        return self._candidates is None

    @property
    def is_over(self) -> bool:
        """True if there is nothing left to ask."""
        return self._candidates is not None and len(self._candidates) == 0

    def comparisons(self) -> list[dict[str, Any]]:
        """Return the answers as rows of a file of comparisons, which holds those between responses to one prompt.

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

    def keep(self) -> None:
        """Add the answers to what the run holds of the user, and learn the user from all of it."""
        origin = SourceLocations()
        origin.open("the answers", "answer")
        builder = PreferencesBuilder(origin)
        for number, sides in enumerate(self._answers, 1):
            chosen, rejected = (builder.row(*self._preferences.conversation(row)) for row in sides)
            builder.compare(self._user, chosen, rejected, origin.add_row(number))
            builder.keep({"timestamp": time.time()})
        add_to_run(run_data(self._folder), self._folder, builder.build(), self._store)
        weights = {user: self._run.weights[row] for user, row in self._run.users.items()}
        save_with_added(self._folder, weights, [self._user], self._basis)

    def learned(self) -> tuple[list[str], list[str]]:
        """Return responses of the run that the user likes more than most users do, and less, by the answers."""
        apart = self.weights() - self._basis.population.to(self.weights())
        order = (self._basis.coordinates(self._vectors) @ apart.to(self._vectors)).argsort(descending=True).tolist()
        texts = [text_of(self._preferences.conversation(row)[1]).strip() for row in order]
        distinct = list(dict.fromkeys(text for text in texts if text))
        return distinct[:_SHOWN], distinct[::-1][:_SHOWN]

    @property
    def answers(self) -> int:
        """Number of questions that were answered."""
        return len(self._answers)

    def weights(self) -> Tensor:
        """Return the user's weights from the answers, `[columns]`."""
        return fit_weights(self._pairs(), self._basis).weights[0]

    def _pairs(self) -> Pairs:
        chosen, rejected = torch.tensor(self._answers, dtype=torch.long).view(-1, 2).T
        return Pairs.from_rows(self._vectors, chosen, rejected, torch.zeros_like(chosen), users=[self._user])


def candidate_pairs(preferences: Preferences, seed: int) -> Tensor | None:
    """Pairs of responses to one prompt, `[candidates, 2]`; None where items are compared across prompts."""
    if preferences.ratings is not None and preferences.ratings.across_prompts:
        return None
    by_prompt: dict[int, list[int]] = {}
    for row, prompt in enumerate(preferences.row_prompt.tolist()):
        by_prompt.setdefault(prompt, []).append(row)
    pairs = [torch.combinations(torch.tensor(rows)) for rows in by_prompt.values() if len(rows) > 1]
    if not pairs:
        return None
    pool = torch.cat(pairs)
    return pool[torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[:_MAX_PAIRS]]
