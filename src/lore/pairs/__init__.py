"""Pairs of embeddings, how they are drawn from ratings, and splits that do not leak."""

from typing import TYPE_CHECKING

from lore.exports import lazy_exports

if TYPE_CHECKING:
    from lore.pairs.splits import Split as Split
    from lore.pairs.splits import split as split
    from lore.pairs.table import Pairs as Pairs

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Pairs": "table",
        "Split": "splits",
        "split": "splits",
    },
)
