"""Output of commands: progress bars, tables of results, the issues of `lore check`."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from lore.cli.application import with_options_named

if TYPE_CHECKING:
    from lore.data.checks import CheckReport
    from lore.evaluation.evaluator import Result
    from lore.progress import Progress
    from lore.runs.training import TrainOutcome


@contextmanager
def progress_bars() -> Iterator["Progress"]:
    """Show progress bars with a rate and the time left on a terminal; nothing elsewhere."""
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


def show_check(report: "CheckReport") -> None:
    """Print counts and issues of a table."""
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
    for issue in report.issues:
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
