"""Community Alignment (Zhang et al. 2025): in each of up to four turns the best of four responses."""

from collections.abc import Iterator
from typing import Any

from lore.data.formats.rows import Row

SIGNS = (frozenset({"annotator_id", "first_turn_prompt", "first_turn_preferred_response"}),)
_TURNS = ("first", "second", "third", "fourth")
_LETTERS = "abcd"


def rows(row: Row) -> Iterator[dict[str, Any]]:
    """Yield a comparison for every response that was not preferred; the history is made of the preferred ones."""
    record, history = row.record, list[dict[str, Any]]()
    shared = {name: value for name, value in record.items() if "_turn_" not in name}
    shared = {"user_id": record.get("annotator_id"), "group": record.get("conversation_id")} | shared
    for number, turn in enumerate(_TURNS):
        prompt, preferred = (record.get(f"{turn}_turn_{name}") for name in ("prompt", "preferred_response"))
        if not prompt or not preferred:
            return
        letter = str(preferred).strip().lower()[-1:]
        responses = {letter: record.get(f"{turn}_turn_response_{letter}") for letter in _LETTERS}
        if responses.get(letter) is None:
            raise row.fail(f"`{turn}_turn_preferred_response` is {preferred!r}", "name one of the four responses")
        history = [*history, {"role": "user", "content": prompt}]
        for other, response in responses.items():
            if other != letter and response is not None:
                sides = {"chosen": responses[letter], "rejected": response}
                yield shared | sides | {"prompt": history, "turn": number}
        history = [*history, {"role": "assistant", "content": responses[letter]}]
