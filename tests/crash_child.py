"""Embeds the data of a test and dies at the n-th moment at which something is made safe on the disk."""

import os
import signal
import sys
from pathlib import Path

from builders import HashEncoder, small_rows
from lore.data.formats import load
from lore.embedding import encode, store


def die_at(moment: int) -> None:
    """Have `os.fsync` kill the process, as `kill -9` does, the n-th time it is called; before or after its work."""
    sync, calls = os.fsync, 0

    def counted(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(descriptor)

    os.fsync = counted


if __name__ == "__main__":
    store._SHARD = 16
    die_at(int(sys.argv[2]))
    encode(load(small_rows(users=3, prompts=40)), HashEncoder(), Path(sys.argv[1]))
