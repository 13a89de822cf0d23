"""Explanations of a user's taste, in the run's own words."""

from torch import Tensor

from lore.data.messages import text_of
from lore.serve.pool import Pool
from lore.serve.schemas import DirectionExamples
from lore.serve.service import UserState

_DIRECTIONS, _SHOWN, _EXCERPT = 3, 2, 200


def describe_directions(pool: Pool, state: UserState) -> list[DirectionExamples]:
    """Return the directions in which a user's weights differ most from the population's, with examples at both ends."""
    basis = state.served.basis
    apart = (state.weights - basis.population)[: max(basis.rank, 1)]
    examples: list[DirectionExamples] = []
    shown: set[str] = set()
    for column in apart.abs().argsort(descending=True)[:_DIRECTIONS].tolist():
        sign = 1.0 if float(apart[column]) >= 0 else -1.0
        order = (sign * pool.along(basis, column)).argsort(descending=True)
        ends = [_texts(pool, rows, shown) for rows in (order, order.flip(0))]
        examples.append(
            DirectionExamples(direction=column, strength=abs(float(apart[column])), more=ends[0], less=ends[1])
        )
    return examples


def _texts(pool: Pool, rows: Tensor, shown: set[str]) -> list[str]:
    """Take the first responses that were not shown yet, shortened."""
    texts: list[str] = []
    for row in rows.tolist():
        text = text_of(pool.conversation(row)[1]).strip()[:_EXCERPT]
        if text and text not in shown:
            texts.append(text)
            shown.add(text)
        if len(texts) == _SHOWN:
            break
    return texts
