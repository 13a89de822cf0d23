"""GGUF files, unpacked once: reading one takes four times as long as reading what comes of it."""

import logging
import tempfile
from pathlib import Path

from lore.embedding.fingerprints import file_hash, library_versions

_log = logging.getLogger(__name__)

_LARGEST = 2**30  # bytes of a file whose weights are kept unpacked, in single precision: eight times as many


def unpacked(file: Path) -> Path | None:
    """Return a folder with the model and the tokenizer of a GGUF file, in single precision; made on first use.

    It lies under `lore` in the cache folder of Hugging Face (`HF_HOME`). None for a file above 1 GiB, and where that
    folder cannot be written: those are unpacked whenever they are loaded.
    """
    if file.stat().st_size > _LARGEST:
        return None
    try:
        return _unpacked(file)
    except OSError as error:
        _log.warning("%s is unpacked again whenever it is loaded: %s", file, error)
        return None


def _unpacked(file: Path) -> Path:
    from huggingface_hub.constants import HF_HOME

    folder = Path(HF_HOME) / "lore" / f"{file.stem}-{file_hash(file)}-{library_versions()['transformers']}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        _unpack(file, Path(beside) / "model")
        try:
            (Path(beside) / "model").rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    return folder


def _unpack(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer, GgufConfig

    where, name = str(file.parent), file.name
    AutoTokenizer.from_pretrained(where, gguf_file=name).save_pretrained(folder)
    unpacking = GgufConfig(dequantize=True)
    model = AutoModel.from_pretrained(where, gguf_file=name, quantization_config=unpacking, dtype=torch.float32)
    model.save_pretrained(folder)
