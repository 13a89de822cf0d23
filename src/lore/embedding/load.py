"""The encoder of a name: a reward LLM, a language model, a sentence encoder, or a file of vectors."""

import importlib.util
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lore.embedding.encoder import Encoder
from lore.embedding.options import EncoderOptions, Pooling
from lore.embedding.packaged import PACKAGED, installed_file
from lore.errors import EncoderError, MissingExtra, first_line

if TYPE_CHECKING:
    from lore.data.preferences import Preferences
    from lore.embedding.language_model import LanguageModel

_VECTOR_FILES = (".safetensors", ".npy", ".parquet")


def load_encoder(name: str, options: EncoderOptions | None = None, preferences: "Preferences | None" = None) -> Encoder:
    """Load the encoder of a name.

    Args:
        name: "minilm"; "smollm2" (`lore download smollm2`); the id (`id@revision`) or folder of a reward model, a
            causal language model or a sentence encoder; a `.gguf` file; several of these with `+` between them, side by
            side; or a `.safetensors`, `.npy` or `.parquet` file of vectors.
        options: how it encodes.
        preferences: the table whose conversations the vectors in a file belong to.

    Raises:
        EncoderError: it cannot be loaded, or fails a probe.
        MissingExtra: the packages for it are not installed.
    """
    options = options or EncoderOptions()
    if len(block_names(name)) > 1:
        return _load_blocks(name, options, preferences)
    if Path(name).suffix in _VECTOR_FILES and not Path(name).is_dir():
        if preferences is None:
            raise EncoderError(
                f"{name}: holds vectors that were made elsewhere, so that new texts cannot be "
                "encoded; give the encoder that made them"
            )
        from lore.embedding.precomputed import PrecomputedVectors

        return PrecomputedVectors(Path(name), preferences)
    _quiet_transformers()
    # Each encoder is imported when it is wanted.
    from lore.embedding.sentence import SentenceEncoder

    if name == "minilm":
        return SentenceEncoder(name, options)
    from lore.embedding.language_model import LanguageModel

    if name in PACKAGED:
        return LanguageModel(str(installed_file(name)), PACKAGED[name].options(options), is_reward_model=False)

    architecture = _architecture(name)
    if architecture.endswith("ForSequenceClassification"):
        return _load_reward_model(name, options)
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return LanguageModel(name, options, is_reward_model=False)
    return SentenceEncoder(name, options)


def _load_reward_model(name: str, options: EncoderOptions) -> Encoder:
    """Load a reward model: what its head reads, and beside it another layer or the response, if one is asked for."""
    from lore.embedding.blocks import BlockEncoder
    from lore.embedding.language_model import LanguageModel

    options = replace(options, layer=None) if options.layer == "last" else options
    scored = LanguageModel(name, replace(options, layer=None, pooling=_scored_pooling(options)), is_reward_model=True)
    if options.layer is None and options.pooling != "response":
        return scored
    return BlockEncoder([scored, LanguageModel(name, options, is_reward_model=False)], options)


def _scored_pooling(options: EncoderOptions) -> Pooling | None:
    """Return the pooling of the block that a head reads: the last token, unless another one is refused there."""
    return None if options.layer is not None or options.pooling == "response" else options.pooling


def load_layers(name: str, options: EncoderOptions) -> "LanguageModel":
    """Load a language model, packaged or not, with all its layers and without a head."""
    from lore.embedding.language_model import LanguageModel

    _quiet_transformers()
    if name in PACKAGED:
        options, name = PACKAGED[name].options(options), str(installed_file(name))
    return LanguageModel(name, replace(options, layer=None, pooling=None), is_reward_model=False)


def block_names(name: str) -> list[str]:
    """Return the names of the encoders that stand side by side in a name."""
    return [name] if Path(name).exists() else name.split("+")


def language_models(name: str) -> list[str]:
    """Return the names of the language models in the name of an encoder."""
    return [one for one in block_names(name) if Path(one).suffix not in _VECTOR_FILES and not _reads_sentences(one)]


def _quiet_transformers() -> None:
    if importlib.util.find_spec("transformers") is None:
        raise MissingExtra("transformers", "embed")
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    disable_progress_bar()  # ours shows the whole job
    set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every retry; what fails is told by us


def _load_blocks(name: str, options: EncoderOptions, preferences: "Preferences | None") -> Encoder:
    """Load encoders side by side, such as "minilm+model.gguf"."""
    _quiet_transformers()
    from lore.embedding.blocks import BlockEncoder, sentence_options
    from lore.embedding.sentence import SentenceEncoder

    names = block_names(name)
    if not all(names):
        raise EncoderError(f"{name}: encoders side by side are names with + between them; name one on each side")
    blocks = [
        SentenceEncoder(one, sentence_options(options), difference=True)
        if _reads_sentences(one)
        else load_encoder(one, options, preferences)
        for one in names
    ]
    return BlockEncoder(blocks, options)


def _reads_sentences(name: str) -> bool:
    if name == "minilm" or name in PACKAGED or Path(name).suffix in _VECTOR_FILES:
        return name == "minilm"
    return not _architecture(name).endswith(("ForSequenceClassification", "ForCausalLM", "LMHeadModel"))


def _architecture(name: str) -> str:
    """Return the class that a model was saved as."""
    from transformers import AutoConfig

    from lore.embedding.language_model import split_name

    where, which = split_name(name)
    if "gguf_file" in which:
        return "ForCausalLM"  # what the format holds
    try:
        config = AutoConfig.from_pretrained(where, **which)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        reason = first_line(error)
        raise EncoderError(f"encoder {name!r} cannot be loaded ({reason}); give a folder, or 'minilm'") from None
    return next(iter(config.architectures or ["ForCausalLM" if _is_decoder(config) else ""]))


def _is_decoder(config: object) -> bool:
    from transformers import AutoModelForCausalLM

    return type(config) in AutoModelForCausalLM._model_mapping
