"""`EncoderOptions`: the choices of how texts become vectors."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch

from lore.errors import ConfigError

Pooling = Literal["last", "mean", "first", "response"]
Truncation = Literal["error", "drop", "left", "right"]
DtypeName = Literal["float32", "bfloat16", "float16"]

_RENAMED = {"on_long": "truncation"}
_REMOVED = frozenset({"compile"})  # it gained nothing, and changed no vector by more than rounding


@dataclass(frozen=True)
class EncoderOptions:
    """Choices of how conversations are encoded; None leaves one to the encoder.

    Attributes:
        pooling: which hidden states make the vector: that of the last token, their mean, that of the first token, or
            the mean over the response's tokens, which have read the prompt.
        layer: of a language model, after which the hidden states are taken, as they are there; those after it are not
            computed. "last", after the last one and its norm, is the default but for packaged models. "auto" lets
            `lore train` choose layer and pooling by held-out groups.
        max_length: tokens of a conversation at most; the model's own limit by default.
        truncation: what happens to a longer one: "error" refuses it, "drop" leaves out its comparisons, "left" and
            "right" cut that end.
        dtype: of the computation; float32 on a CPU and bfloat16 on a GPU by default.
        storage: of the vectors that are kept; float32 by default.
        batch_tokens: tokens of one batch at most, padding included; what suits the device by default.
        device_map: for models that span devices, as in `transformers` (needs `accelerate`).
        attention: an implementation that `transformers` knows; the fastest that is installed by default.
        share_prompts: whether responses to one prompt share its key-value cache, where the model allows it.
    """

    pooling: Pooling | None = None
    layer: int | Literal["auto", "last"] | None = None
    max_length: int | None = None
    truncation: Truncation | None = None
    dtype: DtypeName | None = None
    storage: DtypeName = "float32"
    batch_tokens: int | None = None
    device_map: str | None = None
    attention: str | None = None
    share_prompts: bool = True

    def __post_init__(self) -> None:
        for name, kind in (
            ("pooling", Pooling),
            ("truncation", Truncation),
            ("dtype", DtypeName),
            ("storage", DtypeName),
        ):
            value = getattr(self, name)
            if value not in get_args(kind) and (value is not None or name == "storage"):
                raise ConfigError(f"`{name}` must be one of {', '.join(get_args(kind))}, got {value!r}")
        for name, minimum in (("max_length", 8), ("batch_tokens", 1), ("layer", 1)):
            value = getattr(self, name)
            if value is None or (name == "layer" and value in ("auto", "last")):
                continue
            if type(value) is not int or value < minimum:
                words = ", 'last' or 'auto'" if name == "layer" else ""
                raise ConfigError(f"`{name}` must be a whole number of {minimum} or more{words}, got {value!r}")
        if not isinstance(self.share_prompts, bool):
            raise ConfigError(f"`share_prompts` must be true or false, got {self.share_prompts!r}")

    def to_json(self) -> dict[str, Any]:
        """Return the choices that differ from the defaults, as JSON values."""
        plain = asdict(EncoderOptions())
        return {name: value for name, value in asdict(self).items() if value != plain[name]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "EncoderOptions":
        """Return the choices that `to_json` wrote, of this version or an earlier one.

        Raises:
            ConfigError: there is a choice that no version had.
        """
        renamed = {_RENAMED.get(name, name): value for name, value in values.items() if name not in _REMOVED}
        if unknown := sorted(renamed.keys() - cls.__dataclass_fields__.keys()):
            raise ConfigError(f"unknown choice of the encoder {unknown[0]!r}; read it with the version that wrote it")
        return cls(**renamed)


def torch_dtype(name: DtypeName) -> torch.dtype:
    """Return the dtype of a name."""
    dtype: torch.dtype = getattr(torch, name)
    return dtype
