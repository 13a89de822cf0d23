"""Ratings in a folder: `items.jsonl` (item_id, context, response) and `ratings.csv` (user_id, item_id, rating)."""

from collections.abc import Iterator
from pathlib import Path

from lore.data.builder import PreferencesBuilder
from lore.data.formats.readers import read_records
from lore.data.formats.rows import Row, RowContext, SkipRow
from lore.data.messages import Content

FILES = frozenset({"items.jsonl", "ratings.csv"})
_READ = frozenset({"user_id", "item_id", "rating"})

_Item = tuple[Content, Content, str | None]  # prompt, response, and an explicit group


def parse_folder(folder: Path, builder: PreferencesBuilder, context: RowContext) -> None:
    """Add all ratings, and the items that were rated; a row with a fault is noted and left out."""
    items = dict(_items(folder, builder, context))
    ratings = list(_ratings(folder, builder, context, items))
    rated = {item for _, _, item, _ in ratings}
    mentions = {item: builder.row(*content) for item, content in items.items() if item in rated}
    for row, user, item, rating in ratings:
        builder.rate(user, mentions[item], rating, row.row_ref)
        builder.keep(row.extra(_READ))


def _items(folder: Path, builder: PreferencesBuilder, context: RowContext) -> Iterator[tuple[str, _Item]]:
    seen: set[str] = set()
    for row_ref, record in read_records(folder / "items.jsonl", builder.origin, context.issues):
        row = Row(row_ref, record, context)
        try:
            item = row.identifier("item_id")
            if item in seen:
                raise row.fail("`item_id` stands twice", "give each item its own id")
            row = row.with_record({**record, "prompt": record.get("context")})
            prompt, (response,) = row.conversation([row.messages("response", "assistant")])
            content = prompt, response, row.group()
        except SkipRow:
            continue
        seen.add(item)
        yield item, content


def _ratings(
    folder: Path, builder: PreferencesBuilder, context: RowContext, items: dict[str, _Item]
) -> Iterator[tuple[Row, str, str, float]]:
    """Yield row, user, item and rating."""
    for row_ref, record in read_records(folder / "ratings.csv", builder.origin, context.issues):
        row = Row(row_ref, record, context)
        try:
            user, item = row.identifier("user_id"), row.identifier("item_id")
            if item not in items:
                raise row.fail("`item_id` is not in items.jsonl", "add the item or drop the rating")
            yield row, user, item, row.number("rating", None, -float("inf"), float("inf"))
        except SkipRow:
            continue
