"""compar:IA's votes (comparia-votes): two conversations, and the model that was chosen."""

from collections.abc import Iterator
from typing import Any

from lore.data.formats.rows import Row

_MODELS = ("model_a_name", "model_b_name")
SIGNS = (frozenset({"conversation_a", "conversation_b", "model_a_name", "model_b_name", "chosen_model_name"}),)


def rows(row: Row) -> Iterator[dict[str, Any]]:
    """Yield the vote as a row of `pairwise`; the user is the visitor, else the session."""
    (left, right, first, second), record = row.taken("conversation_a", "conversation_b", *_MODELS)
    record.setdefault("user_id", record.get("visitor_id") or record.get("session_hash"))
    record.setdefault("group", record.get("conversation_pair_id"))
    chosen = record.get("chosen_model_name")
    if first == second and chosen is not None:
        raise row.fail("both models have one name, so that the chosen one is not known", "drop the row")
    if record.get("both_equal") in (True, "True", "true", 1):
        winner = "tie"
    elif chosen in (first, second):
        winner = "left" if chosen == first else "right"
    else:
        raise row.fail("`chosen_model_name` is neither of the two models, and `both_equal` is false", "drop the row")
    yield record | dict(zip(_MODELS, (first, second), strict=True)) | {"left": left, "right": right, "winner": winner}
