"""`lore check` and `lore convert`: what is in a file, and the same as one table."""

import gc
import json
from pathlib import Path
from typing import Annotated

import typer

from lore.cli.application import app
from lore.cli.options import ColumnOptions, Data, with_option_groups
from lore.cli.output import show_check, show_issue
from lore.errors import ConfigError, DataError


@app.command()
@with_option_groups
def check(
    data: Data,
    columns: ColumnOptions,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count what is in a file, and name what is wrong with it, row by row."""
    from lore.runs.readiness import check_for_training

    loaded = columns.load(data)
    gc.freeze()  # the table lives to the end, and need not be walked again and again
    report = check_for_training(loaded)
    if json_output:
        typer.echo(json.dumps(report.to_json(), indent=2))
    else:
        show_check(report, str(data), loaded.format)
    if report.fatal:
        raise DataError(
            f"{data}: `lore train` would refuse it; {report.fatal[0].message} (kinds of fault: {len(report.fatal)})"
        )


@app.command()
@with_option_groups
def convert(
    data: Data,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A .parquet file to write.", show_default=False)],
    columns: ColumnOptions,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT.")] = False,
) -> None:
    """Write what was read from a file as one table in Parquet (docs/data.md)."""
    from lore.data.table import save_table

    if out.suffix.lower() != ".parquet":
        raise ConfigError(f"OUT must end in .parquet, got {str(out)!r}")
    if out.exists() and not force:
        raise ConfigError(f"{out}: is there already; give another name, or `force`")
    loaded = columns.load_usable(data)
    for issue in loaded.issues:
        show_issue(issue)
    save_table(loaded.preferences, out)
    typer.echo(f"{out}: {len(loaded.preferences):,} rows, read as {loaded.format or 'a table'}")
