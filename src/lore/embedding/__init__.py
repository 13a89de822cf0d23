"""Conversations to vectors: encoders, and the store that keeps what they made."""

from lore.embedding.encoded import Encoded, Encoder, Fingerprint
from lore.embedding.encoders import load_encoder
from lore.embedding.options import EncoderOptions
from lore.embedding.plan import EmbeddingPlan, plan
from lore.embedding.store import Embeddings, encode

__all__ = [
    "EmbeddingPlan",
    "Embeddings",
    "Encoded",
    "Encoder",
    "EncoderOptions",
    "Fingerprint",
    "encode",
    "load_encoder",
    "plan",
]
