"""What a person's taste likes, in the run's own words."""

from torch import Tensor

from lore.preferences import text_of
from lore.serve.pool import Pool
from lore.serve.schemas import Liking
from lore.serve.service import Person

_DIRECTIONS, _SHOWN, _EXCERPT = 3, 2, 200


def likes(pool: Pool, person: Person) -> list[Liking]:
    """The directions in which a person's weights differ most from the population's, with examples at both ends."""
    basis = person.served.basis
    apart = (person.weights - basis.population)[: max(basis.rank, 1)]
    found: list[Liking] = []
    shown: set[str] = set()
    for column in apart.abs().argsort(descending=True)[:_DIRECTIONS].tolist():
        sign = 1.0 if float(apart[column]) >= 0 else -1.0
        order = (sign * pool.along(basis, column)).argsort(descending=True)
        ends = [_texts(pool, rows, shown) for rows in (order, order.flip(0))]
        found.append(Liking(direction=column, strength=abs(float(apart[column])), more=ends[0], less=ends[1]))
    return found


def _texts(pool: Pool, rows: Tensor, shown: set[str]) -> list[str]:
    """The first responses that were not shown, shortened; now they are."""
    texts: list[str] = []
    for row in rows.tolist():
        text = text_of(pool.conversation(row)[1]).strip()[:_EXCERPT]
        if text and text not in shown:
            texts.append(text)
            shown.add(text)
        if len(texts) == _SHOWN:
            break
    return texts
