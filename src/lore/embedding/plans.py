"""The cost of embedding before it starts, from a sample that is measured."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lore.data.preferences import Preferences
from lore.embedding.block_store import exists, folder_of_block
from lore.embedding.blocks import BlockEncoder
from lore.embedding.encoder import Encoder
from lore.embedding.store import Embeddings
from lore.embedding.tokens import Conversation, TokenizedBatch

_SAMPLE = 32  # conversations that are encoded to measure the rate


@runtime_checkable
class CountsTokens(Protocol):
    """An encoder that tells how much there is to read."""

    def tokens(self, conversations: Sequence[Conversation]) -> TokenizedBatch:
        """Return the tokens of conversations within the limit."""

    def passes(self, tokens: Sequence[list[int]]) -> int:
        """Tokens that the model has to read for them, what they share once."""


@dataclass(frozen=True)
class EmbeddingPlan:
    """A prediction of what an embedding run will do.

    Attributes:
        conversations: distinct ones in the data.
        present: of these, in the store already.
        tokens: of those to be encoded; None where vectors are read from a file.
        read: tokens that the model will read: prompts that responses share count once.
        too_long: conversations that are longer than the limit.
        bytes: of the vectors that will be added.
        seconds: expected, from the measured sample.
    """

    conversations: int
    present: int
    tokens: int | None
    read: int | None
    too_long: int
    bytes: int
    seconds: float

    def message(self) -> str:
        """Return what `lore embed --plan` prints."""
        text = f"{self.conversations:,} conversations, {self.present:,} of them in the store already"
        if self.tokens is not None and self.read is not None:
            saved = 1 - self.read / max(self.tokens, 1)
            text += f"; {self.tokens:,} tokens to encode, {self.read:,} to read ({saved:.0%} saved by shared prompts)"
        long = f"; {self.too_long:,} are longer than the limit" if self.too_long else ""
        return f"{text}; {self.bytes / 2**20:,.1f} MiB to write; about {_duration(self.seconds)}{long}"


def _duration(seconds: float) -> str:
    """Such as 3.1 s, 12 min or 4.0 h."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"


def plan(preferences: Preferences, encoder: Encoder, store: Path | None = None) -> EmbeddingPlan:
    """Predict what embedding the conversations of a table will cost; nothing is written.

    A sample of 32 neighbours, evenly spread, is encoded and timed. Of encoders side by side the cost is added up, and
    a conversation is present if it is in the stores of all.
    """
    if isinstance(encoder, BlockEncoder):
        plans = [plan(preferences, block, store) for block in encoder.blocks]
        return EmbeddingPlan(
            conversations=plans[0].conversations,
            present=min(one.present for one in plans),
            tokens=sum(one.tokens or 0 for one in plans),
            read=sum(one.read or 0 for one in plans),
            too_long=max(one.too_long for one in plans),
            bytes=sum(one.bytes for one in plans),
            seconds=sum(one.seconds for one in plans),
        )
    keys = preferences.conversation_keys()
    stored = _stored_rows(encoder, store, keys)
    missing = np.flatnonzero(stored < 0)
    missing = missing[np.argsort(preferences.row_prompt[missing], kind="stable")]
    conversations = [preferences.conversation(int(row)) for row in missing]
    tokens = read = None
    too_long = 0
    seconds = 0.0
    size = encoder.encode([]).vectors.element_size()
    if isinstance(encoder, CountsTokens) and conversations:
        fitted = encoder.tokens(conversations)
        tokens, read = sum(map(len, fitted.tokens)), encoder.passes(fitted.tokens)
        too_long = int((fitted.status > 0).sum())
        first = max((len(conversations) - _SAMPLE) // 2, 0)
        sample = slice(first, first + _SAMPLE)
        begin = time.perf_counter()
        encoder.encode(conversations[sample])
        seconds = (time.perf_counter() - begin) * read / max(encoder.passes(fitted.tokens[sample]), 1)
    return EmbeddingPlan(
        conversations=len(keys),
        present=len(keys) - len(missing),
        tokens=tokens,
        read=read,
        too_long=too_long,
        bytes=len(missing) * encoder.dim * size,
        seconds=seconds,
    )


def _stored_rows(encoder: Encoder, store: Path | None, keys: Sequence[bytes]) -> NDArray[np.int64]:
    """Return the row of each key in the store of an encoder; -1 where it is not there."""
    where = None if store is None else folder_of_block(store, encoder)
    if where is None or not exists(where):
        return np.full(len(keys), -1)
    return Embeddings.load(where).find(keys)
