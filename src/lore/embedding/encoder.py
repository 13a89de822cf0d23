"""`Encoder`, the interface that the rest of LoRe sees, and `Encoded`, its result."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lore.embedding.tokens import Conversation

Fingerprint = dict[str, str | int]


@dataclass(frozen=True)
class Encoded:
    """Vectors, and what the length limit did.

    Attributes:
        vectors: `[conversations, dim]`; zeros where one was dropped.
        status: `WHOLE`, `CUT` or `DROPPED` (`lore.embedding.tokens`), uint8 `[conversations]`.
    """

    vectors: Tensor
    status: Tensor

    @classmethod
    def whole(cls, vectors: Tensor) -> "Encoded":
        """Build the result for conversations that were all within the limit."""
        return cls(vectors, torch.zeros(len(vectors), dtype=torch.uint8))


class Encoder(Protocol):
    """An object that turns conversations into vectors.

    Attributes:
        dim: numbers in a vector.
        fingerprint: equal for two encoders only if their vectors may be mixed.
        reference: the reward direction of a reward LLM's own head, `[dim]`, or None.
    """

    dim: int
    fingerprint: Fingerprint
    reference: Tensor | None

    def encode(self, conversations: Sequence[Conversation]) -> Encoded:
        """One vector a conversation, in order."""
