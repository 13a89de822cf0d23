"""Argilla's records, flattened (`records.to_list(flatten=True)`): parallel lists of responses, users and statuses.

A ranking becomes a row of `ranked`, and a rating one of `ratings`; if its column is not called `response`, name it. A
label is the name of the winner: of the column `left` or `right`, which must be named.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from lore.data.formats.rows import Row

_USERS, _STATUS, _RESPONSES = ".responses.users", ".responses.status", ".responses"
SIGNS: tuple[frozenset[str], ...] = ()  # its columns are named after the questions: `is_export` looks at their ends


def is_export(names: Mapping[str, Any]) -> bool:
    """Return True if there is a question with responses and users."""
    return any(str(name).endswith(_USERS) for name in names)


def rows(row: Row) -> Iterator[dict[str, Any]]:
    """Yield what each user submitted to each question."""
    record = row.record
    questions = [str(name).removesuffix(_USERS) for name in record if str(name).endswith(_USERS)]
    shared = {name: value for name, value in record.items() if ".responses" not in str(name)}
    for question in questions:
        values, users, statuses = (record.get(question + ending) or [] for ending in (_RESPONSES, _USERS, _STATUS))
        if not all(isinstance(parallel, list) for parallel in (values, users, statuses)):
            raise row.fail(
                f"`{question}` has responses, users or statuses that are no lists", "export the records again"
            )
        statuses = statuses or ["submitted"] * len(values)
        for value, user, status in zip(values, users, statuses, strict=False):
            if status == "submitted":
                yield shared | {"user_id": user} | _judgement(row, question, value)


def _judgement(row: Row, question: str, value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        ranks = [(one["rank"], one["value"]) for one in value if isinstance(one, Mapping) and one.keys() >= _KEYS]
        if len(ranks) == len(value) and all(name in row.record for _, name in ranks):
            return {"responses": [row.record[name] for _, name in sorted(ranks, key=lambda one: one[0])]}
    elif isinstance(value, int | float) and not isinstance(value, bool):
        return {"rating": value}
    elif isinstance(value, str):
        return {"winner": value}
    raise row.fail(f"`{question}` is neither a ranking of fields, nor a rating, nor a label", "leave the question out")


_KEYS = frozenset({"rank", "value"})
