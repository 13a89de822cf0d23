"""The command `lore`: each command parses, calls one function, and prints."""

from lore.cli.application import app, main
from lore.cli.commands import data, models, paper, serving, training, use  # noqa: F401 - each adds its commands to `app`

__all__ = ["app", "main"]
