"""LMArena's battles in its editions: two conversations, or texts that are JSON lists, and who won.

A battle of the 33k and 100k sets names its judge; those of the 140k and 55k sets name no user.
"""

import json
from collections.abc import Iterator
from typing import Any

from lore.data.formats.rows import Row

SIGNS = (
    frozenset({"winner", "conversation_a", "conversation_b"}),
    frozenset({"response_a", "response_b", "winner_model_a", "winner_model_b"}),
    frozenset({"winner", "response_a", "response_b"}),
)


def rows(row: Row) -> Iterator[dict[str, Any]]:
    """Yield the battle as a row of `pairwise`."""
    if "conversation_a" in row.record:
        (left, right), record = row.taken("conversation_a", "conversation_b")
        sides = {"left": left, "right": right}
    else:
        (prompt, left, right), record = row.taken("prompt", "response_a", "response_b")
        turns = [_listed(text) for text in (prompt, left, right)]
        sides = {"prompt": prompt, "left": left, "right": right}
        if None not in turns and len({len(texts) for texts in turns if texts is not None}) == 1:
            sides = {"left": _dialog(turns[0], turns[1]), "right": _dialog(turns[0], turns[2])}
        elif turns[0] is not None and len(turns[0]) > 1:
            raise row.fail("prompts and responses are JSON lists of different lengths", "drop the row")
    if record.get("user_id") is None and (judge := record.get("judge") or record.get("judge_hash")):
        record["user_id"] = judge
    yield record | sides | {"winner": _winner(row, record)}


def _winner(row: Row, record: dict[str, Any]) -> Any:
    for column, winner in (("winner_model_a", "left"), ("winner_model_b", "right"), ("winner_tie", "tie")):
        if str(record.get(column, 0)) in _TRUE:
            return winner
    if "winner" not in record:
        raise row.fail("none of `winner_model_a`, `winner_model_b` and `winner_tie` is 1", "drop the row")
    return record["winner"]


def _listed(text: Any) -> list[str] | None:
    """Return the texts of a JSON list of them, in which a turn may be null; None for anything else."""
    try:
        values = json.loads(text) if isinstance(text, str) and text.startswith("[") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, list) or not all(value is None or isinstance(value, str) for value in values):
        return None
    return [value or "" for value in values]


def _dialog(prompts: list[str] | None, responses: list[str] | None) -> list[dict[str, str]]:
    turns = []
    for prompt, response in zip(prompts or (), responses or (), strict=True):
        turns += [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    return turns


_TRUE = frozenset({"1", "1.0", "True", "true"})
