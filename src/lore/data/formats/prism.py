"""PRISM (HannahRoseKirk/prism-alignment): conversations in which a user chooses one of several replies a turn.

Reads `conversations.jsonl`; `survey.jsonl` and `utterances.jsonl` may lie beside it. One comparison for every reply
that was not chosen, both sides rendered alike; the history before a turn is made of the chosen replies. The group is
the conversation, so that turns of one dialog are never split.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lore.data.builder import PreferencesBuilder
from lore.data.formats.readers import read_records
from lore.data.formats.rows import Row, RowContext, SkipRow
from lore.data.messages import Message

FILES = frozenset({"conversations.jsonl", "survey.jsonl", "utterances.jsonl"})


def parse_folder(folder: Path, builder: PreferencesBuilder, context: RowContext) -> None:
    """Add all comparisons of a folder; a conversation with a fault is noted and left out."""
    for row_ref, record in read_records(folder / "conversations.jsonl", builder.origin, context.issues):
        row = Row(row_ref, record, context)
        try:
            _parse_conversation(row, builder)
        except SkipRow:
            continue


def _parse_conversation(row: Row, builder: PreferencesBuilder) -> None:
    user, dialog = row.identifier("user_id"), row.identifier("conversation_id")
    turns: dict[int, list[Mapping[str, Any]]] = {}
    said_at_all = row.required("conversation_history")
    if not isinstance(said_at_all, list) or not all(map(_is_utterance, said_at_all)):
        raise row.fail(
            "`conversation_history` is not a list of utterances with turn, role and content", "use the published rows"
        )
    for utterance in said_at_all:
        turns.setdefault(utterance["turn"], []).append(utterance)
    history: list[Message] = []
    for number in sorted(turns):
        questions = [entry for entry in turns[number] if entry["role"] == "user"]
        replies = [entry for entry in turns[number] if entry["role"] == "model"]
        chosen = [entry for entry in replies if entry.get("if_chosen")]
        if len(questions) != 1 or len(chosen) != 1:
            row.warn("a turn without exactly one chosen reply", "it and what follows in its conversation are left out")
            return
        history.append(("user", row.checked_text("content", questions[0]["content"])))
        reply: Message = ("assistant", row.checked_text("content", chosen[0]["content"]))
        for other in replies:
            if other is not chosen[0]:
                rejected: Message = ("assistant", row.checked_text("content", other["content"]))
                rows = [builder.row(tuple(history), (side,), dialog) for side in (reply, rejected)]
                builder.compare(user, rows[0], rows[1], row.row_ref)
                builder.keep({"turn": number})
        history.append(reply)


def _is_utterance(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() >= {"turn", "role", "content"} and type(value["turn"]) is int
