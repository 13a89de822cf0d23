"""A RUN folder: how it is begun, resumed, finished and read."""

import importlib.metadata
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lore.basis import RewardBasis
from lore.embedding import EncoderOptions
from lore.embedding.store import workers
from lore.errors import DataError, RunError, UnknownUser
from lore.files import read_json, replacing, write_json

_STATE = "run.json"
_KEPT_BY_FORCE = "embeddings"
_CHOICES = "feedback.sqlite"  # what a server of the run keeps of people, with its log and locks
_LOCK = ".lock"


def begin(folder: Path, config: dict[str, Any], data: str, force: bool) -> None:
    """Make the folder ours: new, resumed if unfinished and of the same arguments and data, or cleared with `force`.

    Raises:
        RunError: something else is there.
    """
    version = importlib.metadata.version("lore-reward")
    state = {"lore": version, "config": config, "data": data, "finished": False}
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file; choose another --out")
    with _in_turn(folder):
        _claim(folder, state, force)


def _claim(folder: Path, state: dict[str, Any], force: bool) -> None:
    if folder.exists() and any(entry.name != _LOCK for entry in folder.iterdir()):
        if not force and not _same_unfinished(folder, state) and not _refused(folder):
            raise RunError(f"{folder}: exists already; choose another --out, or replace it with --force")
        if force and not (folder / _STATE).exists():
            raise RunError(f"{folder}: is not a RUN folder and will not be replaced; choose another --out")
        if not _same_unfinished(folder, state):
            _clear(folder)
    write_json(folder / _STATE, state)


@contextmanager
def _in_turn(folder: Path) -> Iterator[None]:
    """One process at a time, where `torchrun` started several."""
    if workers() == 1:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / _LOCK):
        yield


def _same_unfinished(folder: Path, state: dict[str, Any]) -> bool:
    try:
        found: dict[str, Any] = read_json(folder / _STATE)
    except DataError:
        return False
    return found == state


def refuse(folder: Path) -> None:
    """Note that data or arguments do not do, so that others may take the place of this run and use its embeddings."""
    write_json(folder / _STATE, {**read_json(folder / _STATE), "refused": True})


def _refused(folder: Path) -> bool:
    try:
        return bool(read_json(folder / _STATE).get("refused"))
    except DataError:
        return False


def _clear(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name != _KEPT_BY_FORCE:
            shutil.rmtree(entry)
        elif entry.is_file() and not entry.name.startswith(_CHOICES):
            entry.unlink()


def finish(folder: Path) -> None:
    """Note that the run is complete, and drop what was only needed to resume it."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    write_json(folder / _STATE, {**read_json(folder / _STATE), "finished": True})


def read_state(folder: Path) -> dict[str, Any]:
    """What the run was begun with, and whether it is finished.

    Raises:
        RunError: there is no run.
    """
    try:
        state: dict[str, Any] = read_json(folder / _STATE)
    except DataError as error:
        raise RunError(f"{error}; give a folder that `lore train` or `lore embed` made") from None
    return state


# --- reading a run ------------------------------------------------------------------------------------------------


def save_users(folder: Path, ids: Sequence[str], weights: Tensor) -> None:
    """Write people's ids and weights `[users, columns]`: personal data, apart from the model."""
    with replacing(folder / "weights.safetensors") as beside:
        save_file({"weights": weights.detach().cpu().contiguous()}, beside)
    write_json(folder / "ids.json", list(ids))


@dataclass(frozen=True)
class Run:
    """A finished run: the basis, and what is known of its people.

    Attributes:
        folder: where it lies.
        basis: shared directions.
        users: row of the weights for each id.
        weights: `[users, columns]`.
        encoder: what to give to `load_encoder`.
        options: with which options.
    """

    folder: Path
    basis: RewardBasis
    users: dict[str, int] = field(repr=False)
    weights: Tensor = field(repr=False)
    encoder: str = "minilm"
    options: EncoderOptions = field(default_factory=EncoderOptions)

    @classmethod
    def load(cls, folder: str | Path) -> "Run":
        """Read a finished RUN folder.

        Raises:
            RunError: it is missing, unfinished or damaged.
        """
        path = Path(folder)
        if not read_state(path).get("finished"):
            raise RunError(
                f"{path}: the run is not finished; repeat `lore train` to resume it, or go on with `lore fit`"
            )
        basis = RewardBasis.load(path / "model")
        try:
            ids = read_json(path / "users" / "ids.json")
            weights = load_file(path / "users" / "weights.safetensors")["weights"]
        except (DataError, SafetensorError, FileNotFoundError) as error:
            raise RunError(f"{path / 'users'}: missing or damaged ({error}); restore it or train again") from None
        if weights.shape != (len(ids), basis.columns):
            raise RunError(f"{path / 'users'}: does not belong to the model beside it; restore it or train again")
        encoder = str(basis.provenance.get("encoder_argument", "minilm"))
        options = EncoderOptions(**basis.provenance.get("encoder_options", {}))
        return cls(path, basis, {user: row for row, user in enumerate(ids)}, weights, encoder, options)

    def weights_of(self, user: str) -> Tensor:
        """A known person's weights, `[columns]`.

        Raises:
            UnknownUser: the run has not met this person.
        """
        if user not in self.users:
            raise UnknownUser(f"no weights for user {user!r}; train with their comparisons first")
        return self.weights[self.users[user]]
