"""`lore rerank`, `lore score` and `lore ask`: use a finished run."""

import json
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lore.cli.application import INTERRUPTED, app
from lore.cli.options import RunPath
from lore.cli.output import progress_bars
from lore.errors import ConfigError, DataError

if TYPE_CHECKING:
    from lore.runs.questionnaire import Questionnaire, QuestionTexts

_EXCERPT = 160  # characters of a response


@app.command()
def rerank(
    run: RunPath,
    user: Annotated[str, typer.Option(help="For whom.", show_default=False)],
    file: Annotated[
        Path | None,
        typer.Argument(
            help='JSON {"prompt": ..., "candidates": [...]}; standard input if it is not given.', show_default=False
        ),
    ] = None,
) -> None:
    """Order candidate responses for one user; an unknown user gets the population's order."""
    from lore.runs.rewards import PersonalRewards

    request = _request(file)
    reranked = PersonalRewards.load(run).rerank(user, request.get("prompt"), request["candidates"])
    typer.echo(json.dumps(reranked.to_json()))


@app.command()
def score(
    run: RunPath,
    data: Annotated[Path, typer.Argument(help="Rows of user_id, prompt and response.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="A .jsonl file; standard output if it is not given.")] = None,
) -> None:
    """Compute rewards for a whole file of (user_id, prompt, response) rows."""
    from lore.files import write_text
    from lore.runs.score import score_file

    with progress_bars() as progress:
        lines = "".join(json.dumps(row) + "\n" for row in score_file(run, data, progress=progress))
    if out is None:
        typer.echo(lines, nl=False)
    else:
        write_text(out, lines)


@app.command()
def ask(
    run: RunPath,
    user: Annotated[str, typer.Option(help="Who answers.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Write the answers to a .jsonl file as well.", show_default=False)
    ] = None,
    max_questions: Annotated[int, typer.Option("--most", help="Questions at most.", min=1)] = 20,
    min_gain: Annotated[
        float, typer.Option("--worth", help="Gain in accuracy below which asking more is not worth it.")
    ] = 1e-4,
    keep: Annotated[bool, typer.Option("--keep/--forget", help="Add the answers to RUN, and learn the user.")] = True,
) -> None:
    """Ask one user the questions that are expected to tell most about them; 1 or 2 answers, q ends."""
    from lore.runs.questionnaire import Questionnaire

    questions = Questionnaire(run, user, min_gain=min_gain)
    if out is not None and questions.across_prompts:
        raise ConfigError("--out cannot hold answers about responses to different prompts, which this run compares")
    try:
        _ask(questions, out, max_questions)
    finally:  # also after Ctrl-C
        if keep and questions.answers:
            questions.keep()
    if questions.answers:
        _show_learned(questions, run, user, keep=keep)


def _ask(questions: "Questionnaire", out: Path | None, max_questions: int) -> None:
    """Ask until the user has enough, or nothing more is worth asking."""
    from lore.files import write_text

    for number in range(1, max_questions + 1):
        if questions.is_over:
            break
        texts = questions.next()
        if texts.question.stop:
            typer.echo(f"Nothing more is worth asking: the best question would gain {texts.question.gain:.3%}.")
            break
        answer = _answer(number, texts)
        if answer == "q":
            break
        questions.answer(texts, first=answer == "1")
        if out is not None:
            write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in questions.comparisons()))


def _show_learned(questions: "Questionnaire", run: Path, user: str, *, keep: bool) -> None:
    """Say what was learned, in the run's own words, and what to do with it."""
    for what, texts in zip(("more", "less"), questions.learned(), strict=True):
        typer.echo(f"\nBy these answers, {user} likes {what} than most users do:")
        for text in texts:
            typer.echo(textwrap.indent(textwrap.shorten(text, _EXCERPT, placeholder="…"), "  - "))
    count = f"{questions.answers} answer{'' if questions.answers == 1 else 's'}"
    if keep:
        typer.echo(f"\n{count} kept in {run}. Order responses for this user: lore rerank {run} --user {user}")
    else:
        typer.echo(f"\n{count} not kept, as asked.")


def _answer(number: int, texts: "QuestionTexts") -> str:
    """Show a question and return "1", "2" or "q"; Ctrl-C, or the end of the input, ends the command."""
    for prompt in dict.fromkeys(filter(None, texts.prompts)):
        typer.echo(f"\n{prompt}")
    first, second = (textwrap.indent(text, "     ").lstrip() for text in texts.responses)
    typer.echo(f"\n  1  {first}\n\n  2  {second}\n")
    while True:
        try:
            answer: str = typer.prompt(f"{number}. Which is better for you (1, 2, q)?")
        except typer.Abort:  # what was answered is kept
            raise typer.Exit(INTERRUPTED) from None
        if answer in ("1", "2", "q"):
            return answer
        typer.echo(f"answer 1, 2 or q, got {answer!r}")


def _request(file: Path | None) -> dict[str, Any]:
    """Return the JSON of a rerank request."""
    name = str(file or "standard input")
    try:
        request = json.loads(file.read_text(encoding="utf-8") if file else sys.stdin.read())
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror}); give a JSON file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f'{name}: not valid JSON ({error}); give {{"prompt": ..., "candidates": [...]}}') from None
    if not isinstance(request, dict) or not isinstance(request.get("candidates"), list):
        raise DataError(f'{name}: give {{"prompt": ..., "candidates": [...]}}')
    return request
