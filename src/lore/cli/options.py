"""Options that commands share: types of single ones, and groups of them as one parameter."""

import functools
import inspect
import json
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_type_hints

import typer

from lore.errors import ConfigError, DataError

if TYPE_CHECKING:
    from lore.data.formats import LoadResult
    from lore.data.formats.names import FormatName
    from lore.embedding.options import EncoderOptions
    from lore.fitting.config import Rank

Data = Annotated[Path, typer.Argument(help="A .jsonl, .csv or .parquet file, or a folder.", show_default=False)]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `lore train` made.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", metavar="RUN", help="Where to leave everything.", show_default=False)]
Ranks = Annotated[
    str,
    typer.Option(
        help="Comma-separated ranks. auto = 2,4,8 (simplex) or a rank chosen by validation (gaussian).",
    ),
]
Seed = Annotated[int, typer.Option(help="Of split, draws and fits.", min=0, max=2**63 - 1)]
Force = Annotated[bool, typer.Option("--force", help="Replace what is in RUN; embeddings are kept.")]
SplitFile = Annotated[
    Path | None, typer.Option(help="The split.json of a run on the same data, to split alike.", show_default=False)
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        help="Of users' choices: a SQLite file, or postgresql://...",
        show_default="feedback.sqlite in RUN",
    ),
]
Families = Annotated[
    Literal["auto", "simplex", "gaussian"], typer.Option("--family", help="Of the personal models; auto compares both.")
]

Splits = Annotated[
    int, typer.Option("--splits", help="Splits into training and test that the finding is the mean of.", min=1)
]


@dataclass(frozen=True)
class ColumnOptions:
    """Which format a file is in, and which columns hold its fields."""

    format: Annotated[
        str | None, typer.Option(help="Force a data format instead of finding it.", show_default=False)
    ] = None
    user_column: Annotated[
        str | None,
        typer.Option(
            help="The column that holds user_id, or a path such as metadata.user_id; none: no user is named.",
            show_default=False,
        ),
    ] = None
    prompt_column: Annotated[str | None, typer.Option(help="The column that holds prompt.", show_default=False)] = None
    chosen_column: Annotated[str | None, typer.Option(help="The column that holds chosen.", show_default=False)] = None
    rejected_column: Annotated[str | None, typer.Option(help="The column that holds rejected.", show_default=False)] = (
        None
    )
    response_column: Annotated[str | None, typer.Option(help="The column that holds response.", show_default=False)] = (
        None
    )
    rating_column: Annotated[str | None, typer.Option(help="The column that holds rating.", show_default=False)] = None
    completion_column: Annotated[
        str | None, typer.Option(help="The column that holds completion.", show_default=False)
    ] = None
    label_column: Annotated[str | None, typer.Option(help="The column that holds label.", show_default=False)] = None
    left: Annotated[
        str | None, typer.Option(help="The column that holds the left of two responses.", show_default=False)
    ] = None
    right: Annotated[str | None, typer.Option(help="The column that holds the right one.", show_default=False)] = None
    winner_column: Annotated[
        str | None, typer.Option(help="The column that says which of them won.", show_default=False)
    ] = None
    group_column: Annotated[str | None, typer.Option(help="The column that holds group.", show_default=False)] = None
    file_encoding: Annotated[
        str | None, typer.Option(help="Of a text file, such as latin-1.", show_default="UTF-8")
    ] = None
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out rows that cannot be used, and count them.")
    ] = False

    def load(self, data: Path) -> "LoadResult":
        """Read a file with these columns."""
        from lore.data.formats import load_with_issues

        named = {
            "user_id": self.user_column,
            "prompt": self.prompt_column,
            "chosen": self.chosen_column,
            "rejected": self.rejected_column,
            "response": self.response_column,
            "rating": self.rating_column,
            "completion": self.completion_column,
            "label": self.label_column,
            "left": self.left,
            "right": self.right,
            "winner": self.winner_column,
            "group": self.group_column,
        }
        columns: dict[str, str | None] = {name: column for name, column in named.items() if column is not None}
        if columns.get("user_id") == "none":
            columns["user_id"] = None
        return load_with_issues(
            data,
            format=cast("FormatName | None", self.format),  # checked there
            columns=columns,
            encoding=self.file_encoding,
            skip_bad=self.skip_bad,
        )

    def load_usable(self, data: Path) -> "LoadResult":
        """Read a file with these columns; refuse it if a row cannot be used."""
        loaded = self.load(data)
        if fatal := [issue for issue in loaded.issues if issue.fatal]:
            raise DataError(fatal[0].message)
        return loaded


@dataclass(frozen=True)
class EncodingOptions:
    """Which encoder, and how it encodes."""

    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            help="minilm, smollm2, a model's id or folder, several joined by +, or a file of vectors.",
            show_default="LORE_ENCODER, or minilm+smollm2 if it is installed, or minilm",
        ),
    ] = None
    max_length: Annotated[
        int | None,
        typer.Option("--max-length", help="Tokens of a conversation at most.", show_default="the model's limit"),
    ] = None
    truncation: Annotated[
        Literal["error", "drop", "left", "right"] | None,
        typer.Option(
            "--truncation",
            help="What happens to a longer one: refuse, drop its comparisons, or cut that end.",
            show_default="error; right for sentence encoders",
        ),
    ] = None
    encoding: Annotated[
        list[str],
        typer.Option(
            "--encoding",
            metavar="NAME=VALUE",
            help="Another choice of EncoderOptions; may be repeated.",
            show_default=False,
        ),
    ] = field(default_factory=list)

    def name(self) -> str:
        """Return the encoder that was named, or the default one; say so if a better one could be installed."""
        from lore.embedding.packaged import default_encoder

        if self.encoder is None:
            say_what_is_missing()
        return self.encoder or default_encoder()

    def options(self) -> "EncoderOptions":
        """Return the options of the encoder; values are JSON, or plain words."""
        from lore.embedding.options import EncoderOptions

        choices: dict[str, Any] = {"max_length": self.max_length, "truncation": self.truncation}
        names = EncoderOptions.__dataclass_fields__
        for text in self.encoding:
            name, equals, value = text.partition("=")
            if name not in names or not equals:
                raise ConfigError(f"--encoding must be NAME=VALUE with a name of {', '.join(names)}, got {text!r}")
            try:
                choices[name] = json.loads(value)
            except json.JSONDecodeError:
                choices[name] = value
        return EncoderOptions(**choices)


def say_what_is_missing() -> None:
    """Say in a line that a better encoder could be installed, if one could."""
    from lore.embedding.packaged import missing_default

    if missing := missing_default():
        typer.echo(missing, err=True)


@dataclass(frozen=True)
class SplitOptions:
    """Options for what is held out."""

    split: Annotated[
        Literal["group", "user"],
        typer.Option("--split", help="Hold out groups (prompts), or each user's own groups."),
    ] = "group"
    unseen: Annotated[float, typer.Option(help="Share of users kept out of learning the basis.")] = 0.2
    test: Annotated[float, typer.Option(help="Share of groups held out.")] = 0.3
    pairs_per_user: Annotated[int, typer.Option(help="Pairs drawn from a user's ratings, in each part.")] = 200
    min_pairs: Annotated[int, typer.Option(help="Leave users with fewer test pairs out of accuracies.")] = 5

    splits: Splits = 1

    def arguments(self) -> dict[str, Any]:
        """Return the options as arguments of `TrainConfig`."""
        return {
            "split_by": self.split,
            "unseen": self.unseen,
            "test": self.test,
            "pairs_per_user": self.pairs_per_user,
            "min_pairs": self.min_pairs,
            "splits": self.splits,
        }


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take groups of options: each parameter of a dataclass is filled from options for its fields."""
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if is_dataclass(hints[name]):
            groups[name] = hints[name]
            parameters += _parameters_of(hints[name])
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name]))

    @functools.wraps(command)
    def run(**values: Any) -> None:
        arguments = {
            name: kind(**{one.name: values.pop(one.name) for one in fields(kind)}) for name, kind in groups.items()
        }
        command(**values, **arguments)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__  # typer would look at the parameters of that one
    return run


def _parameters_of(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            option.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=option.default if option.default_factory is MISSING else option.default_factory(),
            annotation=hints[option.name],
        )
        for option in fields(group)
    ]


def parse_ranks(text: str) -> "tuple[Rank, ...]":
    """Return the ranks in a comma-separated text."""
    rule = "--ranks must be whole numbers, or auto, separated by commas"
    return tuple(parse_rank(part, rule) for part in text.split(","))


def parse_rank(text: str, rule: str) -> "Rank":
    """Return a rank, or "auto"; `rule` begins the message about another text."""
    if text.strip() == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{rule}, got {text!r}") from None


def database_of(run: Path, database: str | None) -> str:
    """Return where a server of this run keeps users' choices; a mistyped folder is refused, not made."""
    from lore.runs.folder import RunFolder

    if database is not None:
        return database
    folder = RunFolder(run)
    folder.state()
    return str(folder.feedback)
