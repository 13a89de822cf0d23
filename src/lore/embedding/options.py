"""How texts become vectors: what a user may choose, and what a fingerprint must tell."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch

from lore.errors import ConfigError

Pooling = Literal["last", "mean", "first"]
OnLong = Literal["error", "drop", "left", "right"]
DtypeName = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class EncoderOptions:
    """Choices of how conversations are encoded; None leaves one to the encoder.

    Attributes:
        pooling: which hidden states make the vector: that of the last token, their mean, or that of the first token.
        max_length: tokens of a conversation at most; the model's own limit by default.
        on_long: what happens to a longer one: "error" refuses it, "drop" leaves out its comparisons, "left" and
            "right" cut that end.
        dtype: of the computation; float32 on a CPU and bfloat16 on a GPU by default.
        storage: of the vectors that are kept; float32 by default.
        batch_tokens: tokens of one batch at most, padding included; what suits the device by default.
        device_map: for models that span devices, as in `transformers` (needs `accelerate`).
        attention: an implementation that `transformers` knows; the fastest that is installed by default.
        compile: whether to compile the model with `torch.compile`.
        share_prompts: whether responses to one prompt share its key-value cache, where the model allows it.
    """

    pooling: Pooling | None = None
    max_length: int | None = None
    on_long: OnLong | None = None
    dtype: DtypeName | None = None
    storage: DtypeName = "float32"
    batch_tokens: int | None = None
    device_map: str | None = None
    attention: str | None = None
    compile: bool = False
    share_prompts: bool = True

    def __post_init__(self) -> None:
        for name, kind in (("pooling", Pooling), ("on_long", OnLong), ("dtype", DtypeName), ("storage", DtypeName)):
            value = getattr(self, name)
            if value not in (*get_args(kind), None):
                raise ConfigError(f"`{name}` must be one of {', '.join(get_args(kind))}, got {value!r}")
        if self.max_length is not None and self.max_length < 8:
            raise ConfigError(f"`max_length` must be 8 tokens or more, got {self.max_length}")
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise ConfigError(f"`batch_tokens` must be 1 or more, got {self.batch_tokens}")

    def to_json(self) -> dict[str, Any]:
        """The choices that differ from the defaults, as JSON values."""
        plain = asdict(EncoderOptions())
        return {name: value for name, value in asdict(self).items() if value != plain[name]}


def torch_dtype(name: DtypeName) -> torch.dtype:
    """The dtype of a name."""
    found: torch.dtype = getattr(torch, name)
    return found
