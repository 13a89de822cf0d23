"""UltraFeedback with four responses a prompt, each with a score; the binarized form is read as `comparisons`."""

from collections.abc import Iterator
from typing import Any

from lore.data.formats.rows import Row

SIGNS = (frozenset({"instruction", "completions"}),)


def rows(row: Row) -> Iterator[dict[str, Any]]:
    """Yield a rating for each response that has a score."""
    (_, prompt), record = row.taken("completions", "instruction")
    for completion in row.mappings("completions"):
        if "response" not in completion:
            raise row.fail("`completions` holds something else than responses", "use the published rows")
        score = completion.get("overall_score", completion.get("fine-grained_score"))
        if score is not None:
            yield record | {"prompt": prompt, "response": completion["response"], "rating": score}
