"""`python -m lore.cli` is the command `lore`."""

from lore.cli import main

main()
