"""Conversations to vectors: encoders, and the store that keeps what they made."""

from lore.embedding.encoders import Encoded, Encoder, Fingerprint, load_encoder
from lore.embedding.store import Embeddings, encode

__all__ = ["Embeddings", "Encoded", "Encoder", "Fingerprint", "encode", "load_encoder"]
