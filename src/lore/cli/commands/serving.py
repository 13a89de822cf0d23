"""`lore serve`, `lore token` and `lore model`: the server and who runs it."""

from pathlib import Path
from typing import Annotated

import typer

from lore.cli.application import app
from lore.cli.options import DatabaseUrl, RunPath, database_of
from lore.errors import ConfigError


@app.command()
def serve(
    run: RunPath,
    port: Annotated[int, typer.Option(min=1, max=65_535)] = 8000,
    host: Annotated[str, typer.Option(help="Any other than 127.0.0.1 needs tokens.")] = "127.0.0.1",
    database: DatabaseUrl = None,
    rate: Annotated[float, typer.Option(help="Requests a second of one token; 0 for no limit.", min=0)] = 0,
    at_once: Annotated[int, typer.Option(help="Requests in flight at most.", min=1)] = 64,
    patience: Annotated[float, typer.Option(help="Seconds that one of a burst may wait for its turn.", min=0)] = 0.1,
) -> None:
    """Start the HTTP server and its page."""
    from lore.serve.app import serve as run_server
    from lore.serve.limits import Limits

    typer.echo(f"Serving {run} on http://{host}:{port} (Ctrl-C ends it)")
    run_server(run, port, host, database, Limits(rate=rate, at_once=at_once, patience=patience))


@app.command()
def token(
    run: RunPath,
    create: Annotated[str | None, typer.Option(metavar="TENANT", help="Make one for a tenant.")] = None,
    scopes: Annotated[str, typer.Option(help="What it may do: read, feedback, admin, erase.")] = "read,feedback",
    days: Annotated[float | None, typer.Option(help="Until it expires; never by default.", min=0, max=36_500)] = None,
    rotate: Annotated[str | None, typer.Option(metavar="ID", help="Make another in place of this one.")] = None,
    overlap: Annotated[float, typer.Option(help="Minutes for which a rotated one goes on.", min=0, max=525_600)] = 60,
    revoke: Annotated[str | None, typer.Option(metavar="ID", help="End one now.")] = None,
    database: DatabaseUrl = None,
) -> None:
    """Make, rotate or revoke a token of a server, or list them; a new one is shown once."""
    from lore.serve import admin

    if sum(choice is not None for choice in (create, rotate, revoke)) > 1:
        raise ConfigError("give one of --create, --rotate and --revoke at a time")
    url = database_of(run, database)
    if create is not None:
        lines = admin.create_token(url, create, [part.strip() for part in scopes.split(",")], days)
    elif rotate is not None:
        lines = admin.rotate_token(url, rotate, overlap)
    elif revoke is not None:
        lines = admin.revoke_token(url, revoke)
    else:
        lines = admin.list_tokens(url)
    for line in lines:
        typer.echo(line)


@app.command()
def model(
    run: RunPath,
    add: Annotated[Path | None, typer.Option(metavar="RUN", help="Serve the model of another run beside.")] = None,
    serve: Annotated[str | None, typer.Option(metavar="VERSION", help="Let this one answer.")] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="Let the one answer that did before.")] = False,
    database: DatabaseUrl = None,
) -> None:
    """Add a model to a server, let one answer, or compare them; a running server follows at once."""
    from lore.serve import admin

    if (add is not None) + (serve is not None) + rollback > 1:
        raise ConfigError("give one of --add, --serve and --rollback at a time")
    url = database_of(run, database)
    if add is not None:
        lines = admin.add_model(url, add)
    elif serve is not None:
        lines = admin.serve_model(url, serve)
    elif rollback:
        lines = admin.roll_back(url)
    else:
        lines = admin.list_models(run, url)
    for line in lines:
        typer.echo(line)
