"""The application that commands are added to, and the exit code of each way to end (docs/commands.md)."""

import errno
import logging
import os
import re
import sys
from collections.abc import Sequence

import typer
from typer.core import TyperGroup

from lore.errors import LoreError

_ORDER = (
    *("demo", "check", "convert", "download", "train", "embed", "fit", "personalize", "evaluate", "sweep"),
    *("rerank", "ask", "score", "reproduce", "serve", "model", "token"),
)


class _Commands(TyperGroup):
    """The commands, in the order in which a newcomer meets them."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # noqa: ARG002 - typer's
        """Return the names of the commands."""
        return sorted(self.commands, key=_ORDER.index)


app = typer.Typer(
    cls=_Commands,
    name="lore",
    help="Learns what each user prefers: personalized reward models from comparisons.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

# What the surroundings can do to a run: a full disk; a read-only one, missing rights, a path that is no folder.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SURROUNDINGS = frozenset(
    {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.ENAMETOOLONG}
)
_WRONG_INPUT = 2
INTERRUPTED = 130  # what typer makes of Ctrl-C

# Arguments of the library that messages name, and the option that sets each.
_OPTIONS = {
    "by": "--split",
    "create": "--create",
    "columns": "an option such as --user-column or --prompt-column",
    "encoding": "--file-encoding",
    "skip_bad": "--skip-bad",
    "concentration": "--concentration",
    "at_once": "--at-once",
    "data": "--data",
    "database": "--database",
    "embeddings": "--embeddings",
    "family": "--family",
    "force": "--force",
    "format": "--format",
    "half_life": "--half-life",
    "host": "--host",
    "max_length": "--max-length",
    "min_pairs": "--min-pairs",
    "min_gain": "--worth",
    "out": "--out",
    "pairs_per_user": "--pairs-per-user",
    "patience": "--patience",
    "port": "--port",
    "rank": "the rank",
    "ranks": "--ranks",
    "rate": "--rate",
    "scopes": "--scopes",
    "seed": "--seed",
    "split_by": "--split",
    "splits": "--splits",
    "split_file": "--split-file",
    "test": "--test",
    "truncation": "--truncation",
    "unseen": "--unseen",
    **{
        name: f"--encoding {name}=..."
        for name in ("attention", "batch_tokens", "device_map", "dtype", "pooling", "share_prompts", "storage")
    },
}
_ARGUMENT = re.compile(r"`(\w+)(?:=\"?(\w+)\"?)?`")
_MAPPING = re.compile(
    r"`columns=\{\"(\w+)\": (.+?)\}`"
)  # a column of a field, such as `columns={"prompt": "question"}`


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and leave with its exit code."""
    # torch's threads wait by spinning, by default for so long that beside other work they wait for one another.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    sys.exit(_run(sys.argv[1:] if arguments is None else list(arguments)))


def _run(arguments: list[str]) -> int:
    try:
        code = app(arguments, standalone_mode=False)
    except LoreError as error:
        return _refuse(with_options_named(str(error)))
    except typer.TyperException as error:
        return _refuse(error.format_message() or "give a command; the commands are listed above")
    except OSError as error:
        if error.errno not in _SURROUNDINGS | _FULL:
            raise
        path = f"{error.filename}: " if error.filename else ""
        return _refuse(f"{path}{error.strerror}; {'make room, or ' * (error.errno in _FULL)}choose another place")
    if code == INTERRUPTED:
        _refuse("interrupted; nothing is half-written, and the same command goes on where it can")
    return code if isinstance(code, int) else 0


def _refuse(message: str) -> int:
    """Write exactly one line to stderr; return the exit code for input that is wrong."""
    line = " ".join(message.split())
    typer.echo(f"lore: {line}", err=True)
    return _WRONG_INPUT


def with_options_named(message: str) -> str:
    """Return a message of the library with its arguments named as options, such as `by="user"` as --split user."""

    def option(match: re.Match[str]) -> str:
        if match[1] not in _OPTIONS:
            return match[0]
        return f"{_OPTIONS[match[1]]} {match[2]}" if match[2] else _OPTIONS[match[1]]

    return _ARGUMENT.sub(option, _MAPPING.sub(_column_option, message))


def _column_option(match: re.Match[str]) -> str:
    field, column = match[1].removesuffix("_id"), match[2].strip('"')
    option = f"--{field}" if field in ("left", "right") else f"--{field}-column"
    return f"{option} {'none' if column == 'None' else column}"


logging.getLogger("lore").addHandler(logging.NullHandler())
