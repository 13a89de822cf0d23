"""Files that are whole or not there: written beside, synced, then renamed."""

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lore.errors import DataError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it is synced and takes the place of `path`.

    When the block raises (Ctrl-C included) the file beside is removed and `path` is as it was.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield beside
        with beside.open("rb") as written:
            os.fsync(written.fileno())
        beside.replace(path)
        sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path`, whole or not at all; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the JSON value in `path`.

    Raises:
        DataError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; give one that exists, or make it again") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: not valid JSON ({error}); restore it or make it again") from None


@dataclass(frozen=True)
class JsonFormat:
    """The layout of a JSON object that LoRe stores, with its number.

    Format 0 is that of files without a number, which were written before the first release.

    Attributes:
        name: of the file, for messages.
        number: of the format that this version writes; older ones are read.
        fields: names that have to be there.
        optional: names that may be there.
        remedy: what to do about a file that cannot be read.
    """

    name: str
    number: int
    fields: frozenset[str]
    optional: frozenset[str] = frozenset()
    remedy: str = "restore it, or train again"

    def write(self, path: Path, values: Mapping[str, Any]) -> None:
        """Write an object with the number of this format, whole or not at all."""
        write_json(path, {"format": self.number, **values})

    def read(self, path: Path) -> tuple[int, dict[str, Any]]:
        """Return the number of a stored object, and its other fields.

        Raises:
            DataError: the file is missing, is not JSON, is of a newer format, or has missing or unknown fields.
        """
        return self.check(str(path), read_json(path))

    def check(self, where: str, values: Any) -> tuple[int, dict[str, Any]]:
        """Return the number and the fields of an object that was read from somewhere.

        Raises:
            DataError: it is of a newer format, or has missing or unknown fields.
        """
        if not isinstance(values, dict):
            raise DataError(f"{where}: {self.name} must be a JSON object, got {type(values).__name__}; {self.remedy}")
        number = values.get("format", 0)
        if not isinstance(number, int) or number > self.number:
            raise DataError(
                f"{where}: {self.name} has format {number!r}, this version reads up to {self.number}; install a newer "
                "version of LoRe"
            )
        fields = {name: value for name, value in values.items() if name != "format"}
        if missing := sorted(self.fields - fields.keys()):
            raise DataError(f"{where}: {self.name} has no field {missing[0]!r}; {self.remedy}")
        if unknown := sorted(fields.keys() - self.fields - self.optional):
            raise DataError(f"{where}: {self.name} has an unknown field {unknown[0]!r}; {self.remedy}")
        return number, fields
