"""Nectar and lists like it: `answers` to a prompt, each with a rank, of which 1 is the best."""

from collections.abc import Iterator
from typing import Any

from lore.data.formats.judgements import by_rank
from lore.data.formats.rows import Row

SIGNS = (frozenset({"prompt", "answers"}),)


def rows(row: Row) -> Iterator[dict[str, Any]]:
    """Yield the list as a row of `ranked`; answers of one rank are not compared."""
    answers, (_, record) = row.mappings("answers"), row.taken("answers")
    if not all(one.keys() >= _KEYS for one in answers):
        raise row.fail("`answers` is not a list of answers with ranks", 'write {"answer": ..., "rank": ...}')
    ranks = [row.with_record(answer).number("rank", None, 0, float("inf")) for answer in answers]
    for judgement in by_rank(row, ranks, [answer["answer"] for answer in answers]):
        yield record | judgement


_KEYS = frozenset({"answer", "rank"})
