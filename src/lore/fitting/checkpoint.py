"""Checkpoints: an interrupted fit resumes from one, and a sweep keeps its finished fits."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lore.errors import ConfigError, DataError
from lore.files import JsonFormat, replacing
from lore.fitting.basis import RewardBasis
from lore.fitting.config import Fit, FitConfig
from lore.pairs.table import Pairs

_FORMAT = 1
_SECONDS = 5.0  # between writes
_SAMPLE = 4_096  # differences that stand for all embeddings in the fingerprint


class Checkpoint:
    """The numbers and tensors that one fit has computed so far, by name.

    They are kept in memory, and in a file that is written at most every five seconds and on Ctrl-C. A resumed fit
    computes only what is missing. Its quasi-Newton memory is new, so that last digits may differ.

    Attributes:
        numbers: losses on held-out groups, and what else was chosen.
        tensors: the best basis so far, and what else is needed to go on.
    """

    def __init__(self, path: Path | None = None, fingerprint: str = "") -> None:
        """Begin, or go on from the file at `path` if there is one; without a path nothing is written."""
        self.numbers: dict[str, float] = {}
        self.tensors: dict[str, Tensor] = {}
        self._path = path
        self._fingerprint = fingerprint
        self._written = time.monotonic()
        if path is not None and path.exists():
            self._read(path)

    def number(self, name: str, compute: Callable[[], float]) -> float:
        """Return the number of this name, computed now if it is missing."""
        if name not in self.numbers:
            self.numbers[name] = compute()
            self._write_at_intervals()
        return self.numbers[name]

    def keep(self, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors, in place of earlier ones of these names."""
        self.tensors |= tensors
        self._write_at_intervals()

    def _read(self, path: Path) -> None:
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        except (SafetensorError, OSError) as error:
            raise DataError(
                f"{path}: not the checkpoint of a fit ({error}); remove it or choose another path"
            ) from None
        number = metadata.get("format", "0")
        if "fit" not in metadata or not number.isdecimal():
            raise DataError(f"{path}: not the checkpoint of a fit; remove it or choose another path")
        if int(number) > _FORMAT:
            raise DataError(f"{path}: the checkpoint of a newer version of LoRe; install that, or remove it")
        if metadata.get("fit") != self._fingerprint:
            raise ConfigError(
                f"`checkpoint` {path} is of a fit of other pairs, another reference or another configuration; "
                "remove it or choose another path"
            )
        self.tensors = tensors
        if "format" in metadata:
            self.numbers = json.loads(metadata["numbers"])
        else:  # format 0 was of one rank, its losses a list
            for strength, weight_strength, loss in json.loads(metadata["held_out"]):
                self.numbers[loss_name(strength, weight_strength)] = loss

    def _write_at_intervals(self) -> None:
        if time.monotonic() - self._written >= _SECONDS:
            self.write()

    def write(self) -> None:
        """Write the file, whole or not at all."""
        if self._path is None:
            return
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        metadata = {"format": str(_FORMAT), "fit": self._fingerprint, "numbers": json.dumps(self.numbers)}
        with replacing(self._path) as beside:
            save_file(tensors, beside, metadata)
        self._written = time.monotonic()

    def remove(self) -> None:
        """Remove the file, and write none any more: the fit is done."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None


def loss_name(strength: float, weight_strength: float) -> str:
    """Return the name under which a checkpoint keeps the held-out loss of two strengths."""
    return f"held-out loss at strength {strength!r}, weight_strength {weight_strength!r}"


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
    """Return the SHA-256 of what a fit depends on; 4,096 differences stand for the embeddings."""
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    parts = [pairs.chosen, pairs.rejected, pairs.user, pairs.weight, pairs.label, pairs.group, reference]
    for part in (pairs.sample(_SAMPLE).differences(), *parts):
        digest.update(b"none" if part is None else part.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# --- finished fits ------------------------------------------------------------------------------------------------

_FIT_FIELDS = ("loss", "objective", "gap", "converged", "history", "strength", "weight_strength", "validation")
_FIT_FORMAT = JsonFormat(
    name="a fit",
    number=1,
    fields=frozenset(_FIT_FIELDS),
    optional=frozenset({"optimality", "optimality_kind"}),  # format 0 had one number for gap and optimality
    remedy="remove the folder of checkpoints",
)


def write_fit(fit: Fit, folder: Path, name: str) -> None:
    """Write a finished fit under a name; its JSON comes last, so that a fit with one is complete."""
    fit.basis.save(folder / name)
    with replacing(folder / f"{name}.safetensors") as beside:
        save_file({"weights": fit.weights.detach().cpu().contiguous()}, beside)
    values = {field: value for field, value in vars(fit).items() if field not in ("basis", "weights")}
    values["optimality"] = fit.optimality if math.isfinite(fit.optimality) else None
    _FIT_FORMAT.write(folder / f"{name}.json", values)


def read_fit(folder: Path, name: str) -> Fit:
    """Return a fit that `write_fit` wrote.

    Raises:
        DataError: it is damaged, or of a newer format.
    """
    number, values = _FIT_FORMAT.read(folder / f"{name}.json")
    if number == 0:
        values |= {"gap": None, "optimality": values["gap"]}
    if values.get("optimality") is None:
        values["optimality"] = math.inf
    try:
        weights = load_file(folder / f"{name}.safetensors")["weights"]
    except (SafetensorError, FileNotFoundError, KeyError) as error:
        raise DataError(f"{folder / name}.safetensors: damaged ({error}); {_FIT_FORMAT.remedy}") from None
    return Fit(basis=RewardBasis.load(folder / name), weights=weights, **values)
