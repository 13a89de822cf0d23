"""What an interrupted fit leaves behind, so that it goes on from there."""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lore.config import FitConfig
from lore.errors import ConfigError, DataError
from lore.files import replacing
from lore.pairs import Pairs

_SECONDS = 5.0  # between writes
_SAMPLE = 4_096  # differences that stand for all embeddings in the fingerprint


class Checkpoint:
    """Where one fit stands: losses on held-out groups that are known, and the best basis so far.

    Kept in memory, and in a file that is written at most every five seconds and on Ctrl-C. A resumed fit begins at that
    basis and ends at the same tolerance; its quasi-Newton memory is new, so that last digits may differ.

    Attributes:
        held_out: log loss by `(strength, weight_strength)`.
        basis: `[dim, rank]`, or None before the descent.
        population: mean of the users' weights that goes with it, `[rank]`.
    """

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        self.held_out: dict[tuple[float, float], float] = {}
        self.basis: Tensor | None = None
        self.population: Tensor | None = None
        self._path = path
        self._fingerprint = fingerprint
        self._written = time.monotonic()
        if path is not None and path.exists():
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        except (SafetensorError, OSError) as error:
            raise DataError(
                f"{path}: not the checkpoint of a fit ({error}); remove it or choose another path"
            ) from None
        if metadata.get("fit") != self._fingerprint:
            raise ConfigError(
                f"`checkpoint` {path} is of a fit of other pairs, another reference or another configuration; "
                "remove it or choose another path"
            )
        self.held_out = {(strength, shrinkage): loss for strength, shrinkage, loss in json.loads(metadata["held_out"])}
        self.basis, self.population = tensors.get("basis"), tensors.get("population")

    def reached(self, basis: Tensor, population: Tensor) -> None:
        """Keep a better basis."""
        self.basis, self.population = basis, population
        self._write_now_and_then()

    def validated(self, strength: float, shrinkage: float, loss: float) -> None:
        """Keep a log loss on held-out groups."""
        self.held_out[strength, shrinkage] = loss
        self._write_now_and_then()

    def _write_now_and_then(self) -> None:
        if time.monotonic() - self._written >= _SECONDS:
            self.write()

    def write(self) -> None:
        """Put it into the file, whole."""
        if self._path is None:
            return
        tensors = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in (("basis", self.basis), ("population", self.population))
            if tensor is not None
        }
        held_out = json.dumps([[*strengths, loss] for strengths, loss in self.held_out.items()])
        with replacing(self._path) as beside:
            save_file(tensors, beside, {"fit": self._fingerprint, "held_out": held_out})
        self._written = time.monotonic()

    def remove(self) -> None:
        """The fit is done."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


@contextmanager
def written_on_interrupt(checkpoints: Sequence[Checkpoint]) -> Iterator[None]:
    """Write checkpoints when the block is ended by Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        for checkpoint in checkpoints:
            checkpoint.write()
        raise


def fingerprint(pairs: Pairs, config: FitConfig, reference: Tensor | None) -> str:
    """SHA-256 of what a fit depends on; 4,096 differences stand for the embeddings."""
    found = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    parts = [pairs.chosen, pairs.rejected, pairs.user, pairs.weight, pairs.label, pairs.group, reference]
    for part in (pairs.sample(_SAMPLE).differences(), *parts):
        found.update(b"none" if part is None else part.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
