"""Progress of long work: a function that is called with task, done and total."""

from typing import Protocol


class Progress(Protocol):
    """A function that is called at every step of a long task."""

    def __call__(self, task: str, done: int, total: int, note: str = "") -> None:
        """Report that `done` of `total` steps of `task` are finished; `note` adds to it."""


def silent(task: str, done: int, total: int, note: str = "") -> None:
    """Do nothing: what library functions do unless they are given something better."""
