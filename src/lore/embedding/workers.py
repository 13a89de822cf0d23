"""Processes that share a job."""

import os


def workers() -> int:
    """Return the number of processes that `torchrun` started; one without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))
