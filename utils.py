"""So that `from utils import ...`, as the original's documentation has it, runs in a checkout."""

from lore.compat import *  # noqa: F403
