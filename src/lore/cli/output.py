"""Output of commands: progress bars, tables of results, the issues of `lore check`."""

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lore.cli.application import with_options_named

if TYPE_CHECKING:
    from lore.data.checks import CheckReport
    from lore.data.formats.names import FormatName
    from lore.data.issues import DataIssue
    from lore.evaluation.evaluator import Result
    from lore.progress import Progress
    from lore.runs.training import TrainOutcome

_LINE_SECONDS = 30.0


def program() -> str:
    """Return how a shell finds this command: its name if it is on the PATH, else its path."""
    name = Path(sys.argv[0]).name
    return name if shutil.which(name) else sys.argv[0]


class ProgressLines:
    """Progress without a terminal: while work goes on, a line each half minute, also within a step that takes long."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: dict[str, float] = {}
        self._current: tuple[str, int, int] | None = None

    def __call__(self, task: str, done: int, total: int, note: str = "") -> None:  # noqa: ARG002 - for terminals
        """Take note of a step."""
        self._begun.setdefault(task, self._clock())
        self._current = (task, done, total)

    def line(self) -> str | None:
        """Return what is being done, its rate and the time left; None if nothing is."""
        if self._current is None or self._current[1] >= self._current[2]:
            return None
        task, done, total = self._current
        seconds = self._clock() - self._begun[task]
        if not done or not seconds:
            return f"{task}: {done:,} of {total:,}, for {seconds:.0f} s"
        rate, left = done / seconds, (total - done) * seconds / done
        return f"{task}: {done:,} of {total:,}, for {seconds:.0f} s ({rate:.1f}/s, about {left:.0f} s left)"

    def write(self, wait: Callable[[float], bool]) -> None:
        """Write a line each half minute, until `wait` for that long returns True."""
        while not wait(_LINE_SECONDS):
            if (line := self.line()) is not None:
                typer.echo(line, err=True)


@contextmanager
def progress_bars() -> Iterator["Progress"]:
    """Show progress bars with a rate and the time left on a terminal, and elsewhere a line each half minute."""
    if not sys.stderr.isatty():
        lines, ended = ProgressLines(), threading.Event()
        writer = threading.Thread(target=lines.write, args=(ended.wait,), daemon=True)
        writer.start()
        try:
            yield lines
        finally:
            ended.set()
            writer.join()
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


def show_check(report: "CheckReport", name: str, format_name: "FormatName | None") -> None:
    """Print counts and issues of a table, and a verdict."""
    from rich.console import Console
    from rich.table import Table

    from lore.data.formats.names import LIKED

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
    for label, value in rows:
        table.add_row(label, value)
    Console(highlight=False, soft_wrap=True).print(table)
    for issue in report.issues:
        show_issue(issue)
    if not report.fatal:
        liked = f" ({LIKED[format_name]})" if format_name in LIKED else ""
        typer.echo(f"\n{name}: read as {format_name or 'a table'}{liked}; `lore train` takes it.")


def show_issue(issue: "DataIssue") -> None:
    """Print one finding."""
    typer.echo(f"{'fatal' if issue.fatal else 'note'}: {with_options_named(issue.message)}")


def show_outcome(outcome: "TrainOutcome") -> None:
    """Print the results of a run, its headline, and where the report is."""
    chosen, sweep = outcome.sweep.chosen.basis, outcome.sweep
    shown = (sweep.chosen_model, chosen.rank)
    show_results([result for result in sweep.results if result.shots is None], shown)
    if outcome.split.dropped:
        typer.echo(f"\n{outcome.split.dropped:,} pairs straddle training and test and were dropped.")
    typer.echo(f"\n{outcome.finding.headline}")
    for caution in outcome.cautions:
        typer.echo(f"- {with_options_named(caution)}")
    typer.echo(f"Report: {outcome.folder / 'report.html'}")


def show_results(results: Sequence["Result"], chosen: tuple[str, int] | None = None) -> None:
    """Print accuracies as a table, a row a model and a column a setting, with a legend of both."""
    from rich.console import Console
    from rich.table import Table

    from lore.evaluation.sentences import model_label
    from lore.evaluation.summary import SETTINGS

    settings = list(dict.fromkeys(result.setting for result in results))
    title = "Accuracy, % (95 % interval for new users and new prompts)"
    table = Table("model", *(SETTINGS[setting][0] for setting in settings), box=None, title=title, title_justify="left")
    cells: dict[str, dict[str, str]] = {}
    for result in results:
        name = model_label(result.model, result.rank)
        name += " (chosen)" if (result.model, result.rank) == chosen else ""
        interval = f" ({100 * result.low:.1f}-{100 * result.high:.1f})" if result.low == result.low else ""
        mean = f"{100 * result.accuracy:.1f}" if result.accuracy == result.accuracy else "-"
        cells.setdefault(name, {})[result.setting] = f"{mean}{interval}"
    for name, row in cells.items():
        table.add_row(name, *(row.get(setting, "") for setting in settings))
    console = Console(highlight=False, width=max(Console().width, 120))
    console.print(table)
    for setting in settings:
        console.print(f"{SETTINGS[setting][0]}: {SETTINGS[setting][1]}.", soft_wrap=True)
