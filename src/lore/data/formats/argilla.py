"""Argilla's records, flattened (`records.to_list(flatten=True)`): parallel lists of responses, users and statuses.

A ranking becomes a row of `ranked`, and a rating one of `ratings`; if its column is not called `response`, name it. A
label is the name of the winner: of the column `left` or `right`, which must be named. Argilla's own client leaves the
ranks of a ranking out, and gives the names in the order of the options: that is no ranking.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from lore.data.formats.judgements import by_rank
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
    judging = [name for name in questions if any(_kind(row, value) for value in _values(row, name))]
    if len(judging) > 1:
        raise row.fail(f"several questions judge one record ({', '.join(judging)})", "keep the columns of one")
    for question in questions:
        values, users = _values(row, question), record[question + _USERS] or []
        statuses = record.get(question + _STATUS) or ["submitted"] * len(values)
        if not isinstance(users, list) or not isinstance(statuses, list):
            raise row.fail(f"users or statuses of `{question}` are no lists", "export the records again")
        if not len(values) == len(users) == len(statuses):
            raise row.fail(f"`{question}` has not as many users and statuses as responses", "export the records again")
        for value, user, status in zip(values, users, statuses, strict=True):
            if status != "submitted":
                row.warn(f"responses that are {status!r:.20}", "they are left out")
                continue
            kind = _kind(row, value)
            if kind is None:
                _leave_out(row, value)
            elif kind == "ranked":
                ranks = [float(one["rank"]) for one in value]
                for ranked in by_rank(row, ranks, [record[one["value"]] for one in value]):
                    yield shared | {"user_id": user} | ranked
            else:
                yield shared | {"user_id": user, kind: value}


def _leave_out(row: Row, value: Any) -> None:
    """Say why an answer cannot be used."""
    names = isinstance(value, list) and len(value) > 1 and all(isinstance(one, str) for one in value)
    if names and all(one in row.record for one in value):
        row.warn(
            "rankings without ranks, which Argilla's client drops (their order is that of the options)",
            "they are left out; export `value` and `rank` of each, as Argilla's server gives them",
        )
    else:
        row.warn("answers that are no ranking, rating or label of the columns", "they are left out")


def _values(row: Row, question: str) -> list[Any]:
    values = row.record.get(question + _RESPONSES) or []
    if not isinstance(values, list):
        raise row.fail(f"the responses of `{question}` are no list", "export the records again")
    return values


def _kind(row: Row, value: Any) -> str | None:
    """Return the field that an answer fills: a ranking, a rating, or a label that names a column; else None."""
    if isinstance(value, list):
        ranking = value and all(
            isinstance(one, Mapping)
            and isinstance(one.get("rank"), int | float)
            and isinstance(one.get("value"), str)
            and one["value"] in row.record
            for one in value
        )
        return "ranked" if ranking else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "rating"
    return "winner" if isinstance(value, str) and value in row.record else None
