"""TRL's preference rows: `user_id` with `chosen` and `rejected`, and `prompt` explicit or implicit."""

from lore.data.builder import PreferencesBuilder
from lore.data.formats.rows import ComparisonIds, Row

_BARE = frozenset({"user_id", "prompt", "chosen", "rejected"})
_READ = frozenset({"user_id", "prompt", "chosen", "rejected", "group", "weight", "label"})


class Parser:
    """Adds comparisons to a builder, one row at a time."""

    def __init__(self, builder: PreferencesBuilder) -> None:
        self._builder, self._ids = builder, ComparisonIds()

    def parse(self, row: Row) -> None:
        """Add the comparison of one row.

        Raises:
            SkipRow: the row cannot be used.
        """
        user = row.identifier("user_id")
        if {type(row.required(name)) for name in _SIDES} == {str, list}:
            raise row.fail(
                "chosen and rejected are of different types, one a text and one a list",
                "store both alike, or a model learns the type instead of the taste",
            )
        prompt, (chosen, rejected) = row.conversation([row.messages(name, "assistant") for name in _SIDES])
        builder = self._builder
        if row.record.keys() <= _BARE:
            builder.compare(user, builder.row(prompt, chosen), builder.row(prompt, rejected), row.row_ref)
            return
        weight = row.number("weight", 1.0, 0, float("inf"))
        label = row.number("label", 1.0, 0, 1)
        group = row.group()
        self._ids.check(row, repr((user, prompt, chosen, rejected, label)))
        sides = builder.row(prompt, chosen, group), builder.row(prompt, rejected, group)
        builder.compare(user, *sides, row.row_ref, weight=weight, label=label)
        builder.keep(row.extra(_READ))


_SIDES = ("chosen", "rejected")
