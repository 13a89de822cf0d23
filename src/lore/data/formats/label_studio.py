"""Label Studio's JSON export: tasks, each with the pairwise choices or ratings of its annotators.

Which texts stood left and right is not in the export: columns `left` and `right` must be named.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from lore.data.formats.rows import Row

_READ = ("pairwise", "rating")
SIGNS = (frozenset({"data", "annotations"}),)


def rows(row: Row) -> Iterator[dict[str, Any]]:
    """Yield a row of `pairwise` for each choice, and one of `ratings` for each rating; cancelled ones are left out."""
    data = row.mapping("data")
    for annotation in row.mappings("annotations"):
        if annotation.get("was_cancelled"):
            row.warn("cancelled annotations", "they are left out")
            continue
        by = annotation.get("completed_by")
        user = by.get("id", by.get("email")) if isinstance(by, Mapping) else by
        shared = {"timestamp": annotation.get("created_at"), **data, "user_id": data.get("user_id", user)}
        one = row.with_record(annotation)
        results = one.mappings("result")
        if len({str(result.get("from_name")) for result in results if result.get("type") in _READ}) > 1:
            raise row.fail("several questions are answered for one task", "export the project with one of them")
        for result in results:
            value = one.with_record(result).mapping("value")
            if result.get("type") == "pairwise":
                yield shared | {"winner": value.get("selected")}
            elif result.get("type") == "rating":
                yield shared | {"rating": value.get("rating")}
            else:
                row.warn(f"results of type {result.get('type')!r:.30}", "they are left out")
        if not results:
            row.warn("annotations without a result", "they are left out")
