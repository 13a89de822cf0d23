"""LMArena's battles in its editions: two conversations, or texts that are JSON lists, and who won.

A battle of the 33k and 100k sets names its judge; those of the 140k and 55k sets name no user.
"""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from lore.data.formats.rows import Row

SIGNS = (
    frozenset({"winner", "conversation_a", "conversation_b"}),
    frozenset({"response_a", "response_b", "winner_model_a", "winner_model_b"}),
    frozenset({"winner", "response_a", "response_b"}),
)
_WINNERS = {
    "model_a": "left",
    "model_b": "right",
    "a": "left",
    "b": "right",
    "tie": "tie",
    "tie (bothbad)": "both_bad",
    "bothbad": "both_bad",
    "both_bad": "both_bad",
}


def rows(row: Row) -> Iterator[dict[str, Any]]:
    """Yield the battle as a row of `pairwise`."""
    if "conversation_a" in row.record:
        (left, right), record = row.taken("conversation_a", "conversation_b")
    else:
        (prompt, *answers), record = row.taken("prompt", "response_a", "response_b")
        left, right = (_dialog(_listed(prompt), _listed(answer)) for answer in answers)
    if judge := record.get("judge") or record.get("judge_hash"):
        record.setdefault("user_id", judge)
    yield record | {"left": left, "right": right, "winner": _winner(row, record)}


def _winner(row: Row, record: dict[str, Any]) -> str:
    for column, winner in (("winner_model_a", "left"), ("winner_model_b", "right"), ("winner_tie", "tie")):
        if str(record.get(column, 0)) in ("1", "True", "true"):
            return winner
    winner = str(record.get("winner")).strip().lower()
    if winner not in _WINNERS:
        raise row.fail(f"`winner` is {record.get('winner')!r}", f"use one of {', '.join(_WINNERS)}")
    return _WINNERS[winner]


def _listed(value: Any) -> list[Any]:
    """Return the texts of a JSON list, of which a turn may be null."""
    with contextlib.suppress(ValueError):
        value = json.loads(value) if isinstance(value, str) and value.startswith("[") else value
    return [text or "" for text in value] if isinstance(value, list) else [value]


def _dialog(prompts: list[Any], responses: list[Any]) -> list[dict[str, Any]]:
    turns = []
    for prompt, response in zip(prompts, responses, strict=False):
        turns += [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    return turns
