"""Columns of texts that spell chat turns: JSON or Python lists that went through CSV, and HH-RLHF's transcripts."""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lore.data.formats.rows import ReadTurns

SAMPLE = 1_000  # rows that are looked at first
_SHARE = 0.9  # of the texts of a column that must spell turns
_NAMES = ("prompt", "chosen", "rejected", "completion", "response", "responses", "left", "right")
_TRANSCRIPT = re.compile(r"(?:\A|\n\n)(Human|Assistant):[ \t]*")
_UNSPLIT = re.compile(r"^(Human|Assistant):", re.MULTILINE)
_ROLES = {"Human": "user", "Assistant": "assistant"}
_BETWEEN = re.compile(r"\}\n\s*\{(?=['\"])")  # how numpy prints lists of objects

SUSPICIOUS = r"^\s*(\[\s*\{|Human:)"  # how such texts begin


def turn_readers(records: Sequence[Mapping[str, Any]]) -> dict[str, ReadTurns]:
    """Return how the texts of each column are read as turns, for columns most of whose texts spell some."""
    readers: dict[str, ReadTurns] = {}
    for name in _NAMES:
        texts = [text for record in records for text in _texts(record.get(name)) if text.strip()]
        for reader in (literal_turns, transcript_turns):
            spelled = sum(reader(text) is not None for text in texts)
            if texts and spelled >= _SHARE * len(texts):
                readers[name] = reader
    if "prompt" not in readers and transcript_turns in readers.values():
        readers["prompt"] = transcript_turns
    return readers


def literal_turns(text: str) -> list[dict[str, Any]] | None:
    """Return the messages of a text that is a JSON or Python list of them; None if it is not."""
    stripped = text.strip()
    if not re.match(r"\[\s*\{", stripped):
        return None
    for parse in (json.loads, ast.literal_eval, lambda text: ast.literal_eval(_BETWEEN.sub("}, {", text))):
        try:
            value = parse(stripped)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        spelled = isinstance(value, list) and all(
            isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in value
        )
        return value if spelled else None
    return None


def transcript_turns(text: str) -> list[dict[str, Any]] | None:
    """Return the turns of a transcript; None if a text is not one."""
    _, *parts = _TRANSCRIPT.split(text.lstrip())
    if not parts or not text.lstrip().startswith(("Human:", "Assistant:")) or parts[0] != "Human":
        return None
    if any(_UNSPLIT.search(text) for text in parts[1::2]):  # turns that are set apart otherwise
        return None
    contents = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": _ROLES[who], "content": text.strip()} for who, text in contents]


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list | tuple) else [value]
    return [text for text in values if isinstance(text, str)]
