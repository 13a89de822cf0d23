"""From events to pairs."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lore.embedding.tokens import Conversation
from lore.pairs.table import Pairs
from lore.serve.store.events import Event

VectorsOf = Callable[[Sequence[Conversation]], Tensor]


def pairs_of_events(events: Sequence[Sequence[Event]], users: Sequence[str], vectors_of: VectorsOf) -> Pairs:
    """Users' events as pairs of rows; a conversation that is in several is one row.

    Args:
        events: of each user.
        users: their ids.
        vectors_of: vectors `[conversations, dim]` of conversations.
    """
    flat = [event for user_events in events for event in user_events]
    rows: dict[Conversation, int] = {}
    sides = [(rows.setdefault(event.chosen, len(rows)), rows.setdefault(event.rejected, len(rows))) for event in flat]
    chosen, rejected = torch.tensor(sides, dtype=torch.long).view(-1, 2).T.contiguous()
    counts = torch.tensor([len(user_events) for user_events in events])
    return Pairs.from_rows(
        vectors_of(list(rows)),
        chosen,
        rejected,
        torch.arange(len(users)).repeat_interleave(counts),
        users=users,
        weight=torch.tensor([event.weight for event in flat]),
        label=torch.tensor([event.label for event in flat]),
    )
