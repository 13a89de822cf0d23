"""Short hashes of all that shapes vectors."""

import importlib.metadata
from collections.abc import Sequence
from hashlib import blake2b, file_digest
from itertools import accumulate
from pathlib import Path
from typing import Any

from lore.embedding.encoder import Fingerprint

_WITH_LENGTH = ("response, prompt, length", "response, prompt, difference, length")  # last, in what an encoder reads
_WEIGHTS = ("*.safetensors", "*.gguf")


def content_hash(path: Path) -> str | None:
    """Hash the weights in a file or folder; None if there is nothing at `path`."""
    if path.is_file():
        return file_hash(path)
    if not path.is_dir():
        return None
    files = sorted(file for pattern in _WEIGHTS for file in path.glob(pattern))
    return short_hash("".join(file_hash(file) for file in files))


def file_hash(path: Path) -> str:
    """Hash a file's bytes."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()[:16]


def short_hash(text: str) -> str:
    """Hash a text."""
    return blake2b(text.encode(), digest_size=8).hexdigest()


def tokenizer_hash(tokenizer: Any) -> str:
    """Hash all that decides how a text is cut into tokens."""
    return short_hash(tokenizer.backend_tokenizer.to_str())


def library_versions() -> Fingerprint:
    """Return the versions of the libraries that compute vectors."""
    return {name: importlib.metadata.version(name) for name in ("torch", "transformers")}


def length_columns(blocks: Sequence[tuple[Fingerprint, int]]) -> tuple[int, ...]:
    """Return the columns that count how long a response is, of encoders side by side: a fingerprint and a dim each."""
    ends = accumulate(dim for _, dim in blocks)
    return tuple(end - 1 for (made, _), end in zip(blocks, ends, strict=True) if made.get("reads", "") in _WITH_LENGTH)


def made_alike(first: Fingerprint, second: Fingerprint) -> bool:
    """Return True if two fingerprints differ at most in versions of libraries and in how vectors are stored."""
    no_matter = {"storage", *library_versions()}
    names = (first.keys() | second.keys()) - no_matter
    return all(first.get(name) == second.get(name) for name in names)
