"""`RunFolder`: the paths in a RUN folder, and how a run is begun, resumed and finished."""

import importlib.metadata
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from lore.embedding.block_store import release
from lore.embedding.options import EncoderOptions
from lore.embedding.workers import workers
from lore.errors import DataError, RunError
from lore.files import JsonFormat

# Format 1 had no `min_pairs` and `splits` among the arguments; format 0 had other names of some.
STATE_FORMAT = JsonFormat(
    name="the state of a run",
    number=2,
    fields=frozenset({"lore", "config", "data", "finished"}),
    optional=frozenset({"refused"}),
    remedy="give a folder that `lore train` or `lore embed` made",
)
_LOCK = ".lock"


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run; all its paths, and its state.

    Attributes:
        path: of the folder.
    """

    path: Path

    @property
    def state_file(self) -> Path:
        """The arguments of the run, and whether it is finished."""
        return self.path / "run.json"

    @property
    def preferences(self) -> Path:
        """The table that was learned from."""
        return self.path / "preferences.parquet"

    @property
    def added(self) -> Path:
        """Comparisons that were added after training; personal data, and kept by `force`."""
        return self.path / "added.parquet"

    @property
    def embeddings(self) -> Path:
        """The store of embeddings; `force` keeps it."""
        return self.path / "embeddings"

    @property
    def split(self) -> Path:
        """The users and comparisons of each part."""
        return self.path / "split.json"

    @property
    def layers(self) -> Path:
        """The layer that was chosen, and what was tried, with `layer` "auto"."""
        return self.path / "layers.json"

    @property
    def checkpoints(self) -> Path:
        """Fits of an unfinished run."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The basis."""
        return self.path / "model"

    @property
    def users(self) -> Path:
        """Ids and weights of users: personal data, kept apart from the model."""
        return self.path / "users"

    @property
    def report_json(self) -> Path:
        """The report for machines."""
        return self.path / "report.json"

    @property
    def report_html(self) -> Path:
        """The report as a page."""
        return self.path / "report.html"

    @property
    def user_table(self) -> Path:
        """Accuracy and gain of each user: personal data, unless the report is redacted."""
        return self.path / "users.csv"

    @property
    def feedback(self) -> Path:
        """The SQLite file of a server of this run; `force` keeps it, its log and its locks."""
        return self.path / "feedback.sqlite"

    # --- state ----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return what the run was begun with (`lore`, `config`, `data`), and whether it is `finished` or `refused`.

        Raises:
            RunError: there is no run, or its state cannot be read.
        """
        if not self.state_file.exists():
            raise RunError(f"{self.state_file}: no such file; {STATE_FORMAT.remedy}")
        try:
            number, state = STATE_FORMAT.read(self.state_file)
        except DataError as error:
            raise RunError(str(error)) from None
        if not isinstance(state["config"], dict):
            raise RunError(f"{self.state_file}: `config` must hold the arguments of a run; {STATE_FORMAT.remedy}")
        return state if number else {**state, "config": _renamed(state["config"])}

    def begin(self, config: dict[str, Any], data: str, *, force: bool) -> None:
        """Take the folder: a new one, an unfinished run of the same arguments and data, or with `force` any other run.

        Args:
            config: arguments of the run, as JSON values.
            data: fingerprint of the data.
            force: replace what another run left, but for its embeddings and what users told a server.

        Raises:
            RunError: something else is there.
        """
        version = importlib.metadata.version("lore-reward")
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path}: is a file; choose another `out`")
        with self._one_process():
            self._take({"lore": version, "config": config, "data": data, "finished": False}, force)

    def mark_refused(self) -> None:
        """Note that the data or arguments cannot be used: another run may replace this one and use its embeddings."""
        STATE_FORMAT.write(self.state_file, {**self.state(), "refused": True})

    def mark_finished(self) -> None:
        """Note that the run is complete, and remove what was only needed to resume it."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        STATE_FORMAT.write(self.state_file, {**self.state(), "finished": True})

    def _take(self, state: dict[str, Any], force: bool) -> None:
        existing = self._existing_state()
        if self.path.exists() and any(entry.name != _LOCK for entry in self.path.iterdir()):
            if not force and existing != state and not existing.get("refused"):
                raise RunError(f"{self.path}: exists already; choose another `out`, or replace it with `force`")
            if force and not self.state_file.exists():
                raise RunError(f"{self.path}: is not a RUN folder and will not be replaced; choose another `out`")
            if existing != state:
                self._clear()
        STATE_FORMAT.write(self.state_file, state)

    def _existing_state(self) -> dict[str, Any]:
        """Return the state of the run that is there, empty if none can be read."""
        try:
            return self.state()
        except RunError:
            return {}

    @contextmanager
    def _one_process(self) -> Iterator[None]:
        """Let one process in at a time if `torchrun` started several."""
        if workers() == 1:
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path / _LOCK):
            yield

    def _clear(self) -> None:
        release(self.embeddings)
        for entry in self.path.iterdir():
            if entry.is_dir() and entry != self.embeddings:
                shutil.rmtree(entry)
            elif entry.is_file() and entry != self.added and not entry.name.startswith(self.feedback.name):
                entry.unlink()


def _renamed(config: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a run of format 0 under today's names."""
    today = {"split_by" if name == "by" else name: value for name, value in config.items()}
    if "encoding" in today:
        today["encoding"] = EncoderOptions.from_json(today["encoding"]).to_json()
    return today
