"""Several encoders side by side: the vectors of all, of equal mean square, as one."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lore.embedding.encoder import Encoded, Encoder, Fingerprint
from lore.embedding.options import EncoderOptions, torch_dtype
from lore.embedding.precomputed import PrecomputedVectors
from lore.embedding.tokens import DROPPED, Conversation

# What the scales are measured on: they depend on no data.
_TEXTS: tuple[tuple[str, str], ...] = (
    ("What is two and two?", "Four."),
    ("How do I make tea?", "Boil water, pour it over the leaves, and wait for three minutes."),
    ("Is it safe to swim after eating?", "Yes; a short rest is more comfortable, but nothing bad happens."),
    ("Tell me a joke.", "I would tell you one about time travel, but you did not like it."),
    ("Write a haiku about rain.", "Soft rain on the roof\nthe garden drinks in silence\nmorning smells of earth"),
    ("Which phone should I buy?", "That depends on what you need: a good camera, a long battery life, or a low price?"),
    ("My friend is angry with me.", "I am sorry to hear that. Have you asked what hurt them?"),
    ("Translate 'good night' into French.", "Bonne nuit"),
)


class BlockEncoder:
    """Encoders whose vectors stand side by side.

    Each block is scaled once, so that its numbers vary as much over a few fixed texts as those of the first: then no
    block counts for more in principal components by its units alone. A file of vectors is scaled by those it holds.

    Attributes:
        blocks: the encoders.
        scales: that the vectors of each are multiplied by.
        storage: dtype of the joined vectors.
    """

    def __init__(self, encoders: Sequence[Encoder], options: EncoderOptions) -> None:
        """Put encoders side by side.

        Args:
            encoders: two or more.
            options: of which only `storage` is read.
        """
        self.blocks, self.storage = list(encoders), torch_dtype(options.storage)
        spreads = [_spread(encoder) for encoder in self.blocks]
        self.scales = [spreads[0] / spread for spread in spreads]
        self.dim = sum(encoder.dim for encoder in self.blocks)
        heads, dims = [encoder.reference for encoder in self.blocks], [encoder.dim for encoder in self.blocks]
        self.reference = joined_reference(heads, self.scales, dims)
        names = [str(encoder.fingerprint.get("encoder", type(encoder).__name__)) for encoder in self.blocks]
        self.fingerprint: Fingerprint = {"encoder": "+".join(names), "storage": options.storage}
        for number, encoder in enumerate(self.blocks, start=1):
            self.fingerprint |= {f"block {number}, {key}": value for key, value in encoder.fingerprint.items()}

    def encode(self, conversations: Sequence[Conversation]) -> Encoded:
        """One vector a conversation, in order; zeros for one that a block dropped."""
        blocks = [encoder.encode(conversations) for encoder in self.blocks]
        return side_by_side(blocks, self.scales, self.storage)


def side_by_side(blocks: Sequence[Encoded], scales: Sequence[float], storage: torch.dtype) -> Encoded:
    """Return the scaled vectors of the same conversations in one row each; zeros for one that a block dropped."""
    scaled = [block.vectors.float() * scale for block, scale in zip(blocks, scales, strict=True)]
    status = torch.stack([block.status for block in blocks]).amax(0)
    return Encoded((torch.cat(scaled, dim=1) * (status != DROPPED)[:, None]).to(storage), status)


def joined_reference(heads: Sequence[Tensor | None], scales: Sequence[float], dims: Sequence[int]) -> Tensor | None:
    """Return the head of the only block that has one, so that it gives that block's own score; else None."""
    if sum(head is not None for head in heads) != 1:
        return None
    parts = zip(heads, scales, dims, strict=True)
    return torch.cat([torch.zeros(dim) if head is None else head.float() / scale for head, scale, dim in parts])


def sentence_options(options: EncoderOptions) -> EncoderOptions:
    """Return the options of a block that is a sentence encoder: those of language models are not for it."""
    return replace(options, storage="float32", pooling=None, layer=None, max_length=None, dtype=None, truncation=None)


def _spread(encoder: Encoder) -> float:
    """Return the standard deviation of numbers around the mean of each, over all numbers of a vector."""
    probes = [((("user", prompt),), (("assistant", response),)) for prompt, response in _TEXTS]
    vectors = (encoder.vectors if isinstance(encoder, PrecomputedVectors) else encoder.encode(probes).vectors).float()
    return float((vectors - vectors.mean(0)).pow(2).mean().sqrt().clamp(min=1e-12))
