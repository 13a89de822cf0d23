"""Two responses and who won: `left`, `right` and `winner` (left, right, tie, or both_bad)."""

from lore.data.builder import PreferencesBuilder
from lore.data.formats.rows import Row
from lore.data.habits import CHOSEN_SIDE

_READ = frozenset({"user_id", "prompt", "left", "right", "winner", "group", "weight"})
_TIES = {"tie": "ties", "both_bad": "both responses are called bad"}
WINNERS = {
    **dict.fromkeys(("left", "a", "model_a", "response_a"), "left"),
    **dict.fromkeys(("right", "b", "model_b", "response_b"), "right"),
    **dict.fromkeys(("tie", "both", "equal"), "tie"),
    **dict.fromkeys(("both_bad", "tie (bothbad)", "bothbad", "both bad"), "both_bad"),
}


def parse(row: Row, builder: PreferencesBuilder) -> None:
    """Add the comparison of one row; where neither won its label is one half."""
    user, weight = row.identifier("user_id"), row.number("weight", 1.0, 0, float("inf"))
    prompt, (left, right) = row.conversation([row.messages(side, "assistant") for side in ("left", "right")])
    winner, group = WINNERS.get(row.text("winner").strip().lower()), row.group()
    if winner is None:
        raise row.fail(
            f"`winner` is {row.record['winner']!r:.40}", "use left, right, tie or both_bad, or a column's name"
        )
    if winner in _TIES:
        row.warn(_TIES[winner], "they are comparisons with a label of one half")
    chosen, rejected = (right, left) if winner == "right" else (left, right)
    sides = builder.row(prompt, chosen, group), builder.row(prompt, rejected, group)
    builder.compare(user, *sides, row.row_ref, weight=weight, label=0.5 if winner in _TIES else 1.0)
    side = {} if winner in _TIES else {CHOSEN_SIDE: winner}
    builder.keep(row.extra(_READ) | side)
