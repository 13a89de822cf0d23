"""Ratings in a folder: `items.jsonl` (item_id, context, response) and `ratings.csv` (user_id, item_id, rating)."""

from pathlib import Path

from lore.data.builder import PreferencesBuilder
from lore.data.formats.files import read_records
from lore.data.formats.rows import Row, SkipRow
from lore.data.issues import IssueLog

FILES = frozenset({"items.jsonl", "ratings.csv"})
_READ = frozenset({"user_id", "item_id", "rating"})


def parse_folder(folder: Path, builder: PreferencesBuilder, issues: IssueLog) -> None:
    """Add all ratings; a row with a fault is noted and left out."""
    items: dict[str, int] = {}
    for row_ref, record in read_records(folder / "items.jsonl", builder.origin, issues):
        row = Row(row_ref, record, issues)
        try:
            item = row.identifier("item_id")
            if item in items:
                raise row.fail("`item_id` stands twice", "give each item its own id")
            context = record.get("context")
            prompt = row.checked_messages("context", context, "user") if context else ()
            items[item] = builder.row(prompt, row.messages("response", "assistant"), row.group())
        except SkipRow:
            continue
    for row_ref, record in read_records(folder / "ratings.csv", builder.origin, issues):
        row = Row(row_ref, record, issues)
        try:
            user, item = row.identifier("user_id"), row.identifier("item_id")
            if item not in items:
                raise row.fail("`item_id` is not in items.jsonl", "add the item or drop the rating")
            builder.rate(user, items[item], row.number("rating", None, -float("inf"), float("inf")), row_ref)
            builder.keep(row.extra(_READ))
        except SkipRow:
            continue
