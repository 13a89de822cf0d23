"""How long work says how far it is: a function that is called with task, done and total."""

from typing import Protocol


class Progress(Protocol):
    """Told of every step of a long task."""

    def __call__(self, task: str, done: int, total: int, note: str = "") -> None:
        """`done` of `total` steps of `task` are finished; `note` is what else is to be said of it."""


def silent(task: str, done: int, total: int, note: str = "") -> None:
    """Says nothing: what library functions do unless they are given something better."""
