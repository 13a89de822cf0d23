"""The run's own responses, as questions are chosen from them and tastes are told by them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lore.data.preferences import Preferences
from lore.embedding import Embeddings
from lore.embedding.tokens import Conversation
from lore.errors import DataError
from lore.fitting.basis import RewardBasis
from lore.runs.questionnaire import candidate_pairs


@dataclass(frozen=True)
class Pool:
    """A run's responses, their vectors and the pairs to ask about, which belong together.

    A request reads one pool to its end: when a user is erased from the run meanwhile, the rows of the table before
    are not looked up in the table after.

    Attributes:
        preferences: the run's table.
        vectors: of its responses, `[rows, dim]`.
        questions: pairs of rows to ask about, `[pairs, 2]`; None where any two will do.
        numbers: row of each conversation, by its key.
    """

    preferences: Preferences
    vectors: Tensor
    questions: Tensor | None
    numbers: dict[bytes, int]

    @classmethod
    def of(cls, preferences: Preferences, embeddings: Embeddings) -> "Pool":
        """Return the responses of a table, as vectors of a store."""
        vectors = embeddings.vectors[embeddings.rows(preferences)].float()
        numbers = {key: row for row, key in enumerate(preferences.conversation_keys())}
        return cls(preferences, vectors, candidate_pairs(preferences, seed=0), numbers)

    def conversation(self, row: int) -> Conversation:
        """Return the conversation of a row."""
        return self.preferences.conversation(row)

    def unjudged(self, compared: Sequence[tuple[bytes, bytes]]) -> Tensor | None:
        """Return the questions but those that a user has answered, by the keys of what they compared.

        Raises:
            DataError: none is left.
        """
        left = self.questions
        if left is not None and compared:
            rows = torch.tensor([[self.numbers.get(key, -1) for key in both] for both in compared], dtype=torch.long)
            code = torch.tensor([len(self.vectors), 1])  # makes one number of two rows
            left = left[~torch.isin(left @ code, rows.sort(dim=1).values @ code)]
        if left is not None and len(left) == 0:
            raise DataError("this user has judged every pair that the run has; give `candidates`")
        return left

    def along(self, basis: RewardBasis, column: int) -> Tensor:
        """Rewards of the responses along one direction, `[rows]`, less the population's."""
        rewards = basis.coordinates(self.vectors)
        common = rewards @ basis.population.to(rewards) if basis.family == "simplex" else 0.0
        return rewards[:, column] - common
