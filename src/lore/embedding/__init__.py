"""Conversations to vectors: encoders, and the store that keeps what they made."""

from typing import TYPE_CHECKING

from lore.exports import lazy_exports

if TYPE_CHECKING:
    from lore.embedding.encoder import Encoded as Encoded
    from lore.embedding.encoder import Encoder as Encoder
    from lore.embedding.encoder import Fingerprint as Fingerprint
    from lore.embedding.load import load_encoder as load_encoder
    from lore.embedding.options import EncoderOptions as EncoderOptions
    from lore.embedding.plans import EmbeddingPlan as EmbeddingPlan
    from lore.embedding.plans import plan as plan
    from lore.embedding.store import Embeddings as Embeddings
    from lore.embedding.store import encode as encode

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "EmbeddingPlan": "plans",
        "Embeddings": "store",
        "Encoded": "encoder",
        "Encoder": "encoder",
        "EncoderOptions": "options",
        "Fingerprint": "encoder",
        "encode": "store",
        "load_encoder": "load",
        "plan": "plans",
    },
)
