"""`lore check`: what is in a file."""

import json
from typing import Annotated

import typer

from lore.cli.application import app
from lore.cli.options import ColumnOptions, Data, with_option_groups
from lore.cli.output import show_check
from lore.errors import DataError


@app.command()
@with_option_groups
def check(
    data: Data,
    columns: ColumnOptions,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count what is in a file, and name what is wrong with it, row by row."""
    from lore.data.checks import check as check_preferences

    loaded = columns.load(data)
    report = check_preferences(loaded.preferences, loaded.issues, to_split=True)
    if json_output:
        typer.echo(json.dumps(report.to_json(), indent=2))
    else:
        show_check(report, str(data), loaded.format or "a table")
    if report.fatal:
        raise DataError(
            f"{data}: `lore train` would refuse it; {report.fatal[0].message} (kinds of fault: {len(report.fatal)})"
        )
