"""Files that hold rows: found in folders and archives, and opened, unpacked."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa

from lore.errors import DataError, first_line
from lore.files import read_json

KINDS = (".arrow", ".csv", ".json", ".jsonl", ".ndjson", ".parquet", ".tsv")
UTF_8 = "utf-8-sig"
_PACKED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
_READABLE = ", ".join(KINDS)


@dataclass(frozen=True)
class SourceFile:
    """A file, or a member of an archive.

    Attributes:
        name: for messages.
        kind: how it is read: its ending, without that of the packing.
        open_bytes: opens its content, unpacked.
    """

    name: str
    kind: str
    open_bytes: Callable[[], IO[bytes]]

    def open_text(self, encoding: str) -> IO[str]:
        """Open its content as text; ends of lines are as they stand."""
        return io.TextIOWrapper(self.open_bytes(), encoding, newline="")

    def undecodable(self, encoding: str) -> str:
        """Return which line is not text in an encoding, and what to do."""
        with self.open_bytes() as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    line.decode(encoding)
                except UnicodeDecodeError as error:
                    wrong = f"byte {line[error.start]:#04x} is not {'UTF-8' if encoding == UTF_8 else encoding}"
                    return f"{self.name}, line {number}: {wrong}; convert the file, or name its `encoding`"
        return f"{self.name}: not {encoding} as a whole; convert the file, or name its `encoding`"


def source_files(path: Path) -> list[SourceFile]:
    """Return the files of a path, all of one kind.

    Raises:
        DataError: there is none, or none of a kind that is read, or they are of several kinds.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; give a .jsonl, .csv or .parquet file, or a folder of them")
    if path.is_file():
        if files := _of_path(path):
            return files
        raise DataError(f"{path}: unknown kind of file {path.suffix!r}; convert it to one of {_READABLE}")
    if not path.is_dir():
        raise DataError(
            f"{path}: neither a file nor a folder; give a .jsonl, .csv or .parquet file, or a folder of them"
        )
    if (path / "dataset_dict.json").is_file():
        raise DataError(
            f"{path}: a folder of several datasets that `save_to_disk` wrote; give one of the folders in it"
        )
    if (path / "state.json").is_file():
        names = [entry["filename"] for entry in read_json(path / "state.json").get("_data_files", [])]
        paths = [path / name for name in names]
    else:
        inside = sorted(one for one in path.rglob("*") if one.is_file())
        paths = [one for one in inside if not any(part[0] in "._" for part in one.relative_to(path).parts)]
    files = [file for one in paths for file in _of_path(one)]
    kinds = {file.kind for file in files}
    if not files:
        raise DataError(f"{path}: the folder holds no file that ends in {_READABLE}; convert to one of these")
    if len(kinds) > 1:
        raise DataError(f"{path}: the folder mixes {', '.join(sorted(kinds))} files; keep one format in a folder")
    return files


def _of_path(path: Path) -> list[SourceFile]:
    """Return what can be read in a file: itself, or the members of an archive; nothing if it is of no known kind."""
    suffix = path.suffix.lower()
    if suffix == ".zip":
        return _members(path)
    if suffix in _PACKED:
        kind, packing = path.with_suffix("").suffix.lower(), _PACKED[suffix]
        unpacked = [SourceFile(str(path), kind, lambda: pa.input_stream(str(path), compression=packing))]
        return unpacked if kind in KINDS else []
    return [SourceFile(str(path), suffix, lambda: path.open("rb"))] if suffix in KINDS else []


def _members(path: Path) -> list[SourceFile]:
    def opened(name: str) -> Callable[[], IO[bytes]]:
        return lambda: zipfile.ZipFile(path).open(name)

    try:
        names = [name for name in zipfile.ZipFile(path).namelist() if not name.endswith("/")]
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path}: not a readable zip file ({first_line(error)}); pack it again") from None
    shown = [name for name in names if not any(part[:1] in (".", "_") for part in name.split("/"))]
    kinds = {name: Path(name).suffix.lower() for name in shown}
    return [SourceFile(f"{path}/{name}", kind, opened(name)) for name, kind in sorted(kinds.items()) if kind in KINDS]
