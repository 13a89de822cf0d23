"""The command `lore`: each command parses, calls one function, and prints."""

import errno
import json
import logging
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from lore.errors import ConfigError, DataError, LoreError

if TYPE_CHECKING:
    from lore.config import Rank
    from lore.embedding import EncoderOptions
    from lore.evaluate import Result
    from lore.preferences import FormatName
    from lore.progress import Progress
    from lore.sources import Reading
    from lore.train import TrainOutcome

app = typer.Typer(
    name="lore",
    help="Learns what each person prefers: personalized reward models from comparisons.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

# What the surroundings can do to a run: a full disk; a read-only one, missing rights, a path that is no folder.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SURROUNDINGS = frozenset(
    {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.ENAMETOOLONG}
)
_INTERRUPTED = 130  # what typer makes of Ctrl-C


class FamilyName(StrEnum):
    """Families of personal models, of which one is fitted."""

    simplex = "simplex"
    gaussian = "gaussian"


class FamilyChoice(StrEnum):
    """Families of personal models that are compared."""

    auto = "auto"
    simplex = "simplex"
    gaussian = "gaussian"


class SplitName(StrEnum):
    """What is held out."""

    group = "group"
    user = "user"


class LongChoice(StrEnum):
    """What happens to a conversation that is longer than the limit."""

    error = "error"
    drop = "drop"
    left = "left"
    right = "right"


class ProtocolChoice(StrEnum):
    """How an experiment is run."""

    lore = "lore"
    original = "original"


class Answer(StrEnum):
    """What somebody says to a question of `lore ask`."""

    first = "1"
    second = "2"
    end = "q"


class ExperimentName(StrEnum):
    """The paper's experiments."""

    personalllm = "personalllm"
    prism = "prism"
    tldr = "tldr"


Data = Annotated[Path, typer.Argument(help="A .jsonl, .csv or .parquet file, or a folder.", show_default=False)]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `lore train` made.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", metavar="RUN", help="Where to leave everything.", show_default=False)]
Format = Annotated[str | None, typer.Option(help="Force a data format instead of finding it.", show_default=False)]
UserColumn = Annotated[str | None, typer.Option(help="The column that holds user_id.", show_default=False)]
PromptColumn = Annotated[str | None, typer.Option(help="The column that holds prompt.", show_default=False)]
ChosenColumn = Annotated[str | None, typer.Option(help="The column that holds chosen.", show_default=False)]
RejectedColumn = Annotated[str | None, typer.Option(help="The column that holds rejected.", show_default=False)]
EncoderName = Annotated[
    str, typer.Option("--encoder", help="minilm, a model's id or folder, or a file of vectors (docs/embedding.md).")
]
MaxLength = Annotated[
    int | None, typer.Option("--max-length", help="Tokens of a conversation at most.", show_default="the model's limit")
]
OnLong = Annotated[
    LongChoice | None,
    typer.Option(
        "--on-long",
        help="A longer one: refuse, drop its comparisons, or cut that end.",
        show_default="error; right for sentence encoders",
    ),
]
Encoding = Annotated[
    list[str],
    typer.Option(
        "--encoding",
        metavar="NAME=VALUE",
        help="Another choice of EncoderOptions; may be repeated.",
        show_default=False,
    ),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        help="Of people's choices: a SQLite file, or postgresql://...",
        show_default="feedback.sqlite in RUN",
    ),
]
Ranks = Annotated[str, typer.Option(help="Ranks to compare, separated by commas; auto among them is several.")]
HalfLife = Annotated[
    float | None,
    typer.Option(
        "--half-life",
        metavar="DAYS",
        help="Days after which an older comparison counts half, by its timestamp.",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(help="Of split, draws and fits.", min=0, max=2**63 - 1)]
Force = Annotated[bool, typer.Option("--force", help="Replace what is in RUN; embeddings are kept.")]
Family = Annotated[FamilyName, typer.Option(help="Of the personal model.")]
Families = Annotated[FamilyChoice, typer.Option("--family", help="Of the personal models; auto compares both.")]
SplitBy = Annotated[SplitName, typer.Option("--split", help="Hold out groups (prompts), or each user's own groups.")]
SplitFile = Annotated[
    Path | None, typer.Option(help="The split.json of a run on the same data, to split alike.", show_default=False)
]
Unseen = Annotated[float, typer.Option(help="Share of users kept out of learning the basis.")]
Test = Annotated[float, typer.Option(help="Share of groups held out.")]
PairsPerUser = Annotated[int, typer.Option(help="Pairs drawn from a user's ratings, in each part.")]
Redact = Annotated[bool, typer.Option("--redact", help="Leave texts out of the report.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and leave with its exit code (docs/commands.md)."""
    # torch's threads wait by spinning: by default for so long that beside other work they wait for one another.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    sys.exit(_run(sys.argv[1:] if arguments is None else list(arguments)))


def _run(arguments: list[str]) -> int:
    try:
        code = app(arguments, standalone_mode=False)
    except LoreError as error:
        return _refuse(str(error))
    except typer.TyperException as error:
        return _refuse(error.format_message() or "give a command; the commands are listed above")
    except OSError as error:
        if error.errno not in _SURROUNDINGS | _FULL:
            raise
        place = f"{error.filename}: " if error.filename else ""
        return _refuse(f"{place}{error.strerror}; {'make room, or ' * (error.errno in _FULL)}choose another place")
    if code == _INTERRUPTED:
        _refuse("interrupted; nothing is half-written, and the same command goes on where it can")
    return code if isinstance(code, int) else 0


def _refuse(message: str) -> int:
    """Exactly one line on stderr; the exit code for input that is wrong."""
    line = " ".join(message.split())
    typer.echo(f"lore: {line}", err=True)
    return 2


# --- the whole job ------------------------------------------------------------------------------------------------


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="Where to leave everything.")] = Path("runs/demo"),
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """The whole job on the embedded data: 400 simulated people judge small answers to everyday questions."""
    from lore.demo import run_demo

    with _progress() as progress:
        outcome = run_demo(out, seed=seed, force=force, progress=progress)
    _show_outcome(outcome)
    user = outcome.split.unseen_shots.users[0]
    question = '{"prompt": "How do I cook rice?", "candidates": ["Rinse it first.", "What rice do you have?"]}'
    typer.echo(f"\nNext: echo '{question}' | lore rerank {out} --user {user}")


@app.command()
def check(
    data: Data,
    format: Format = None,  # noqa: A002 - the option's name
    user_column: UserColumn = None,
    prompt_column: PromptColumn = None,
    chosen_column: ChosenColumn = None,
    rejected_column: RejectedColumn = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What is in the file, and what is wrong with it, row by row."""
    from lore.check import check as check_preferences

    reading = _read(data, format, _columns(user_column, prompt_column, chosen_column, rejected_column))
    report = check_preferences(reading.preferences, reading.findings, to_split=True)
    if json_output:
        typer.echo(json.dumps(report.to_json(), indent=2))
    else:
        _show_check(report)
    if report.fatal:
        raise DataError(
            f"{data}: `lore train` would refuse it; {report.fatal[0].message} (kinds of fault: {len(report.fatal)})"
        )


@app.command()
def train(
    data: Data,
    out: Out,
    encoder: EncoderName = "minilm",
    max_length: MaxLength = None,
    on_long: OnLong = None,
    encoding: Encoding = [],  # noqa: B006 - typer copies it
    family: Families = FamilyChoice.auto,
    ranks: Ranks = "0,1,auto",
    seed: Seed = 0,
    split: SplitBy = SplitName.group,
    split_file: SplitFile = None,
    unseen: Unseen = 0.2,
    test: Test = 0.3,
    pairs_per_user: PairsPerUser = 200,
    half_life: HalfLife = None,
    force: Force = False,
    redact: Redact = False,
    format: Format = None,  # noqa: A002 - the option's name
    user_column: UserColumn = None,
    prompt_column: PromptColumn = None,
    chosen_column: ChosenColumn = None,
    rejected_column: RejectedColumn = None,
) -> None:
    """Check, embed, split, fit, personalize, evaluate, report: the main job."""
    from lore.train import TrainConfig
    from lore.train import train as run_train

    config = TrainConfig(
        encoder=encoder,
        family=family.value,
        ranks=_ranks(ranks),
        seed=seed,
        by=split.value,
        unseen=unseen,
        test=test,
        pairs_per_user=pairs_per_user,
        half_life=half_life,
        redact=redact,
        split_file=None if split_file is None else str(split_file),
        encoding=_encoding(max_length, on_long, encoding),
    )
    reading = _read(data, format, _columns(user_column, prompt_column, chosen_column, rejected_column))
    with _progress() as progress:
        outcome = run_train(reading, out, config, title=data.stem, force=force, progress=progress)
    _show_outcome(outcome)


# --- its steps ----------------------------------------------------------------------------------------------------


@app.command()
def embed(
    data: Data,
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="Where to leave everything.")] = Path("runs/new"),
    encoder: EncoderName = "minilm",
    max_length: MaxLength = None,
    on_long: OnLong = None,
    encoding: Encoding = [],  # noqa: B006 - typer copies it
    plan: Annotated[bool, typer.Option("--plan", help="Say what it will cost; write nothing.")] = False,
    list_to: Annotated[
        Path | None,
        typer.Option("--list", help="Write the conversations to a .jsonl file instead, to embed them elsewhere."),
    ] = None,
    family: Families = FamilyChoice.auto,
    seed: Seed = 0,
    split: SplitBy = SplitName.group,
    unseen: Unseen = 0.2,
    test: Test = 0.3,
    pairs_per_user: PairsPerUser = 200,
    force: Force = False,
    format: Format = None,  # noqa: A002 - the option's name
    user_column: UserColumn = None,
    prompt_column: PromptColumn = None,
    chosen_column: ChosenColumn = None,
    rejected_column: RejectedColumn = None,
) -> None:
    """Begin a RUN folder and embed every conversation once."""
    from lore.train import TrainConfig, conversation_lines, embed_step, plan_step

    config = TrainConfig(
        encoder,
        family.value,
        seed=seed,
        by=split.value,
        unseen=unseen,
        test=test,
        pairs_per_user=pairs_per_user,
        encoding=_encoding(max_length, on_long, encoding),
    )
    reading = _read(data, format, _columns(user_column, prompt_column, chosen_column, rejected_column))
    _refuse_fatal(reading)
    if list_to is not None:
        from lore.files import write_text

        write_text(list_to, conversation_lines(reading.preferences))
        typer.echo(f"{reading.preferences.rows:,} conversations in {list_to}")
        return
    if plan:
        typer.echo(plan_step(reading.preferences, out, config).message())
        return
    with _progress() as progress:
        embeddings = embed_step(reading.preferences, out, config, force=force, progress=progress)
    typer.echo(f"{len(embeddings):,} conversations of {embeddings.vectors.shape[1]} numbers in {out / 'embeddings'}")
    if message := embeddings.too_long(reading.preferences).message():
        typer.echo(message)


@app.command()
def fit(
    run: RunFolder,
    rank: Annotated[str, typer.Option(help="Learned directions, or auto.")] = "auto",
    family: Family = FamilyName.simplex,
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the model of a finished run.")] = False,
) -> None:
    """Learn a basis from the seen users of a RUN folder that has been embedded."""
    from lore.fit import FitConfig
    from lore.train import fit_step

    found = fit_step(
        run,
        FitConfig(family=family.value, rank=_rank(rank, "--rank must be a whole number or auto"), seed=seed),
        force=force,
    )
    typer.echo(f"loss {found.loss:.4f}, gap {found.gap:.1e}, {len(found.history)} steps; model in {run / 'model'}")


@app.command()
def personalize(
    run: RunFolder,
    data: Data,
    replace: Annotated[bool, typer.Option("--replace", help="Learn known people anew, from this file alone.")] = False,
    format: Format = None,  # noqa: A002 - the option's name
    user_column: UserColumn = None,
    prompt_column: PromptColumn = None,
    chosen_column: ChosenColumn = None,
    rejected_column: RejectedColumn = None,
) -> None:
    """Learn the weights of the people in a file, with the basis of a RUN folder frozen."""
    from lore.train import personalize_step

    reading = _read(data, format, _columns(user_column, prompt_column, chosen_column, rejected_column))
    _refuse_fatal(reading)
    with _progress() as progress:
        people = personalize_step(run, reading.preferences, replace_known=replace, progress=progress)
    typer.echo(f"weights of {people:,} people in {run / 'users'}")
    if left := len(reading.preferences.users) - people:
        typer.echo(f"{left:,} people have no comparison that tells anything, and are left as they were")


@app.command()
def evaluate(run: RunFolder) -> None:
    """Accuracy of the model of a RUN folder in the settings of its split."""
    from lore.train import evaluate_step

    for setting, found in evaluate_step(run).items():
        interval = f" ({found.low:.1%} to {found.high:.1%})" if found.low == found.low else ""
        typer.echo(f"{setting:13} {found.mean:.1%}{interval}, {found.users} users")


@app.command()
def sweep(run: RunFolder, ranks: Ranks = "0,1,auto") -> None:
    """Fit and evaluate several ranks on the split of a RUN folder."""
    from lore.train import sweep_step

    with _progress() as progress:
        results = sweep_step(run, _ranks(ranks), progress=progress)
    _show_results(results)


# --- use ----------------------------------------------------------------------------------------------------------


@app.command()
def rerank(
    run: RunFolder,
    user: Annotated[str, typer.Option(help="For whom.", show_default=False)],
    file: Annotated[
        Path | None,
        typer.Argument(
            help='JSON {"prompt": ..., "candidates": [...]}; standard input if it is not given.', show_default=False
        ),
    ] = None,
) -> None:
    """Order candidate responses for one person; for somebody unknown, the population's order."""
    from lore.rewards import PersonalRewards

    request = _request(file)
    found = PersonalRewards.load(run).rerank(user, request.get("prompt"), request["candidates"])
    typer.echo(json.dumps(found.to_json()))


@app.command()
def score(
    run: RunFolder,
    data: Annotated[Path, typer.Argument(help="Rows of user_id, prompt and response.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="A .jsonl file; standard output if it is not given.")] = None,
) -> None:
    """Rewards for a whole file of (user_id, prompt, response) rows."""
    from lore.files import write_text
    from lore.score import score_file

    with _progress() as progress:
        lines = "".join(json.dumps(row) + "\n" for row in score_file(run, data, progress=progress))
    if out is None:
        typer.echo(lines, nl=False)
    else:
        write_text(out, lines)


@app.command()
def ask(
    run: RunFolder,
    user: Annotated[str, typer.Option(help="Who answers.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="A .jsonl file of the answers, for `lore personalize`.", show_default=False)
    ] = None,
    most: Annotated[int, typer.Option(help="Questions at most.", min=1)] = 20,
    worth: Annotated[float, typer.Option(help="Gain in accuracy below which asking more is not worth it.")] = 1e-4,
) -> None:
    """Ask one person the questions that tell most about them; 1 or 2 answers, q ends."""
    from lore.files import write_text
    from lore.questionnaire import Questionnaire

    questions = Questionnaire(run, user, worth=worth)
    if out is not None and questions.across_prompts:
        raise ConfigError("--out cannot hold answers about responses to different prompts, which this run compares")
    for number in range(1, most + 1):
        if questions.is_over:
            break
        choice = questions.next()
        if choice.question.stop:
            typer.echo(f"Nothing more is worth asking: the best question would gain {choice.question.gain:.3%}.")
            break
        for prompt in dict.fromkeys(filter(None, choice.prompts)):
            typer.echo(f"\n{prompt}")
        first, second = (textwrap.indent(text, "     ").lstrip() for text in choice.responses)
        typer.echo(f"\n  1  {first}\n\n  2  {second}\n")
        try:
            question = f"{number}. Which is better for you (1, 2, q)?"
            answer = typer.prompt(question, type=Answer, show_choices=False).value
        except typer.Abort:  # Ctrl-C, or the end of the input: what was answered is kept
            raise typer.Exit(_INTERRUPTED) from None
        if answer == "q":
            break
        questions.answer(choice, first=answer == "1")
        if out is not None:
            write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in questions.comparisons()))
    typer.echo(json.dumps({"user": user, "weights": questions.weights().tolist()}))


@app.command()
def reproduce(
    experiment: Annotated[ExperimentName, typer.Argument(help="Which experiment.", show_default=False)],
    out: Out,
    data: Annotated[
        Path | None, typer.Option(help="The data set, as published; downloaded if it is not given.", show_default=False)
    ] = None,
    embeddings: Annotated[
        Path | None,
        typer.Option(help="Folder of train.safetensors and test.safetensors (personalllm).", show_default=False),
    ] = None,
    protocol: Annotated[ProtocolChoice, typer.Option(help="Our own, or the published one.")] = ProtocolChoice.lore,
    concentration: Annotated[
        float | None, typer.Option(help="Dirichlet parameter of the people (personalllm).", show_default="0.1")
    ] = None,
    encoder: EncoderName = "minilm",
    max_length: MaxLength = None,
    on_long: OnLong = None,
    encoding: Encoding = [],  # noqa: B006 - typer copies it
    seed: Annotated[int | None, typer.Option(help="0, drawn by the original protocol.", show_default=False)] = None,
    split_file: SplitFile = None,
    force: Force = False,
) -> None:
    """The paper's experiments, from the real data sets."""
    from lore.reproduce import reproduce as run_experiment

    with _progress() as progress:
        outcome = run_experiment(
            experiment.value,
            out,
            data=data,
            embeddings=embeddings,
            protocol=protocol.value,
            concentration=concentration,
            encoder=encoder,
            encoding=_encoding(max_length, on_long, encoding),
            seed=seed,
            split_file=split_file,
            force=force,
            progress=progress,
        )
    _show_outcome(outcome)


@app.command()
def serve(
    run: RunFolder,
    port: Annotated[int, typer.Option(min=1, max=65_535)] = 8000,
    host: Annotated[str, typer.Option(help="Another than 127.0.0.1 needs tokens.")] = "127.0.0.1",
    database: DatabaseUrl = None,
    rate: Annotated[float, typer.Option(help="Requests a second of one token; 0 for no limit.", min=0)] = 0,
    at_once: Annotated[int, typer.Option(help="Requests that are there at once.", min=1)] = 64,
    patience: Annotated[float, typer.Option(help="Seconds that one of a burst may wait for its turn.", min=0)] = 0.1,
) -> None:
    """The HTTP server and its page."""
    from lore.serve.app import serve as run_server
    from lore.serve.limits import Limits

    typer.echo(f"Serving {run} on http://{host}:{port} (Ctrl-C ends it)")
    run_server(run, port, host, database, Limits(rate=rate, at_once=at_once, patience=patience))


@app.command()
def token(
    run: RunFolder,
    create: Annotated[str | None, typer.Option(metavar="TENANT", help="Make one for a tenant.")] = None,
    scopes: Annotated[str, typer.Option(help="What it may do: read, feedback, admin, erase.")] = "read,feedback",
    days: Annotated[float | None, typer.Option(help="Until it expires; never by default.", min=0, max=36_500)] = None,
    rotate: Annotated[str | None, typer.Option(metavar="ID", help="Make another in place of this one.")] = None,
    overlap: Annotated[float, typer.Option(help="Minutes for which a rotated one goes on.", min=0, max=525_600)] = 60,
    revoke: Annotated[str | None, typer.Option(metavar="ID", help="End one now.")] = None,
    database: DatabaseUrl = None,
) -> None:
    """Tokens of a server: make, rotate or revoke one, or list them. A new one is shown once."""
    from lore.serve.tokens import change_tokens

    if sum(choice is not None for choice in (create, rotate, revoke)) > 1:
        raise ConfigError("give one of --create, --rotate and --revoke at a time")
    url = _database_of(run, database)
    wanted = [part.strip() for part in scopes.split(",")]
    for line in change_tokens(url, create, wanted, days, rotate, overlap, revoke):
        typer.echo(line)


@app.command()
def model(
    run: RunFolder,
    add: Annotated[Path | None, typer.Option(metavar="RUN", help="Serve the model of another run beside.")] = None,
    serve: Annotated[str | None, typer.Option(metavar="VERSION", help="Let this one answer.")] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="Let the one answer that did before.")] = False,
    database: DatabaseUrl = None,
) -> None:
    """Models of a server: add one, let one answer, or compare them; a running server follows at once."""
    from lore.serve.lifecycle import change_models

    if (add is not None) + (serve is not None) + rollback > 1:
        raise ConfigError("give one of --add, --serve and --rollback at a time")
    for line in change_models(run, _database_of(run, database), add, serve, roll_back=rollback):
        typer.echo(line)


# --- parsing and printing -----------------------------------------------------------------------------------------


def _read(data: Path, format_name: str | None, columns: dict[str, str]) -> "Reading":
    from lore.sources import read

    return read(data, format=cast("FormatName | None", format_name), columns=columns)  # checked there


def _refuse_fatal(reading: "Reading") -> None:
    fatal = [found for found in reading.findings if found.fatal]
    if fatal:
        raise DataError(fatal[0].message)


def _columns(user: str | None, prompt: str | None, chosen: str | None, rejected: str | None) -> dict[str, str]:
    named = {"user_id": user, "prompt": prompt, "chosen": chosen, "rejected": rejected}
    return {name: column for name, column in named.items() if column is not None}


def _encoding(max_length: int | None, on_long: LongChoice | None, more: Sequence[str]) -> "EncoderOptions":
    """The options of the encoder; values are JSON, or plain words."""
    from lore.embedding import EncoderOptions

    given: dict[str, Any] = {"max_length": max_length, "on_long": on_long.value if on_long else None}
    known = EncoderOptions.__dataclass_fields__
    for text in more:
        name, equals, value = text.partition("=")
        if name not in known or not equals:
            raise ConfigError(f"--encoding must be NAME=VALUE with a name of {', '.join(known)}, got {text!r}")
        try:
            given[name] = json.loads(value)
        except json.JSONDecodeError:
            given[name] = value
    return EncoderOptions(**given)


def _database_of(run: Path, database: str | None) -> str:
    """Where a server of this run keeps people's choices; a mistyped folder is refused, not made."""
    from lore.run import read_state

    if database is not None:
        return database
    read_state(run)
    return str(run / "feedback.sqlite")


def _ranks(text: str) -> "tuple[Rank, ...]":
    return tuple(_rank(part, "--ranks must be whole numbers, or auto, separated by commas") for part in text.split(","))


def _rank(text: str, rule: str) -> "Rank":
    if text.strip() == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{rule}, got {text!r}") from None


def _request(file: Path | None) -> dict[str, Any]:
    """The JSON of a rerank request."""
    name = str(file or "standard input")
    try:
        request = json.loads(file.read_text(encoding="utf-8") if file else sys.stdin.read())
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror}); give a JSON file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{name}: not valid JSON ({error})") from None
    if not isinstance(request, dict) or not isinstance(request.get("candidates"), list):
        raise DataError(f'{name}: give {{"prompt": ..., "candidates": [...]}}')
    return request


@contextmanager
def _progress() -> Iterator["Progress"]:
    """Progress bars with a rate and the time left on a terminal; nothing elsewhere."""
    from lore.progress import silent

    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def show(task: str, done: int, total: int, note: str = "") -> None:
            if note:
                bars.console.print(f"{task}: {note}", highlight=False)
            if task not in tasks:
                tasks[task] = bars.add_task(task, total=total, rate="")
            speed = bars.tasks[tasks[task]].speed
            bars.update(tasks[task], completed=done, total=total, rate=f"{speed:.1f}/s" if speed else "")

        yield show


def _show_check(report: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    counts = report.counts
    table = Table(show_header=False, box=None)
    low, first, middle, third, high = counts.per_user
    rows = [
        ("users", f"{counts.users:,}"),
        ("ratings" if counts.ratings else "comparisons", f"{counts.comparisons:,}"),
        ("per user", f"{low:.0f} min, {first:.0f} / {middle:.0f} / {third:.0f} quartiles, {high:.0f} max"),
        ("prompts", f"{counts.prompts:,}"),
        ("responses", f"{counts.responses:,}, {counts.conversations:,} with their prompts"),
    ]
    if counts.longer_chosen is not None:
        rows.append(("longer chosen", f"{counts.longer_chosen:.1%} (a model of length alone would be right so often)"))
    if counts.disagreement is not None:
        rows.append(("disagreement", f"{counts.disagreement:.1%} of two users' choices on the same pair"))
    for name, value in rows:
        table.add_row(name, value)
    Console(highlight=False, soft_wrap=True).print(table)
    for found in report.findings:
        typer.echo(f"{'fatal' if found.fatal else 'note'}: {found.message}")


def _show_outcome(outcome: "TrainOutcome") -> None:
    chosen = outcome.sweep.chosen.basis
    _show_results([result for result in outcome.sweep.results if result.shots is None], (chosen.family, chosen.rank))
    if outcome.split.dropped:
        typer.echo(f"\n{outcome.split.dropped:,} pairs straddle training and test and were dropped.")
    typer.echo(f"\n{outcome.finding}\nReport: {outcome.folder / 'report.html'}")


def _show_results(results: Sequence["Result"], chosen: tuple[str, int] | None = None) -> None:
    from rich.console import Console
    from rich.table import Table

    settings = list(dict.fromkeys(result.setting for result in results))
    table = Table("model", *settings, box=None, title="Accuracy, % (95 % interval)", title_justify="left")
    cells: dict[str, dict[str, str]] = {}
    for result in results:
        ranked = result.model in ("simplex", "gaussian")
        told = result.rank or "without tastes"
        name = f"{result.model} {told}" if ranked else result.model
        name += " (chosen)" if (result.model, result.rank) == chosen else ""
        interval = f" ({100 * result.low:.1f}-{100 * result.high:.1f})" if result.low == result.low else ""
        shown = f"{100 * result.accuracy:.1f}{interval}"
        cells.setdefault(name, {})[result.setting] = shown
    for name, row in cells.items():
        table.add_row(name, *(row.get(setting, "") for setting in settings))
    Console(highlight=False, width=max(Console().width, 96)).print(table)


logging.getLogger("lore").addHandler(logging.NullHandler())


if __name__ == "__main__":
    main()
