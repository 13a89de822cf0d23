"""PersonalLLM rows (namkoong-lab/PersonalLLM): a prompt, responses, and a score by each reward model.

Every reward model becomes a user who rates all responses; `lore.simulate` mixes them into people.
"""

import re

from lore.preferences import PreferencesBuilder
from lore.sources.fields import Row

_SCORE = re.compile(r"response_(\d+)_(.+)")
_RESPONSE = re.compile(r"response_(\d+)")


def parse(row: Row, builder: PreferencesBuilder) -> None:
    """Add one rating for every score that is there; a missing score (null or NaN) is noted and left out."""
    prompt = row.turns("prompt", "user")
    rows = {
        match[1]: builder.row(prompt, row.turns(name, "assistant"))
        for name in row.record
        if (match := _RESPONSE.fullmatch(name))
    }
    extra = {name: value for name, value in row.record.items() if not name.startswith(("response_", "prompt"))}
    for name, score in row.record.items():
        match = _SCORE.fullmatch(name)
        if match is None:
            continue
        if score is None or score != score:
            row.warn("missing score", "the response is left out for this scorer")
            continue
        builder.rate(match[2], rows[match[1]], row.number(name, None, -float("inf"), float("inf")), row.place)
        builder.keep(extra)
