"""How well models would have foretold choices before they were made: what a server shows its operator."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lore.basis import RewardBasis
from lore.embedding.tokens import Conversation
from lore.evaluate import Accuracy, Gain, accuracy, gain
from lore.pairs import Pairs
from lore.personalize import fit_weights
from lore.serve.models import Models
from lore.users import Event, UserStore

VectorsOf = Callable[[Sequence[Conversation]], Tensor]

_PEOPLE = 500  # who chose last, of whom anything is computed
_BLOCKS = 12


def pairs_of_events(events: Sequence[Sequence[Event]], users: Sequence[str], vectors_of: VectorsOf) -> Pairs:
    """People's events as pairs of rows; a conversation that is in several is one row.

    Args:
        events: of each person.
        users: their ids.
        vectors_of: vectors `[conversations, dim]` of conversations.
    """
    flat = [event for own in events for event in own]
    rows: dict[Conversation, int] = {}
    sides = [(rows.setdefault(event.chosen, len(rows)), rows.setdefault(event.rejected, len(rows))) for event in flat]
    chosen, rejected = torch.tensor(sides, dtype=torch.long).view(-1, 2).T.contiguous()
    counts = torch.tensor([len(own) for own in events])
    return Pairs.from_rows(
        vectors_of(list(rows)),
        chosen,
        rejected,
        torch.arange(len(users)).repeat_interleave(counts),
        users=users,
        weight=torch.tensor([event.weight for event in flat]),
        label=torch.tensor([event.label for event in flat]),
    )


@dataclass(frozen=True)
class Foretold:
    """How often choices of one span of time were foretold from those before it.

    Attributes:
        until: when the last of them was made, in seconds since 1970.
        personal: by each person's weights from what they chose before.
        common: by the population's.
    """

    until: float
    personal: Accuracy
    common: Accuracy


class Hindsight:
    """Some people's events, and the models that may be asked about them."""

    def __init__(self, events: Sequence[Sequence[Event]], vectors_of: VectorsOf) -> None:
        """People's events, each person's in order of arrival; not none at all."""
        self._events = [event for own in events for event in own]
        self._pairs = pairs_of_events(events, [str(at) for at in range(len(events))], vectors_of)
        self._number = torch.tensor([event.number for event in self._events])

    def foretold(self, basis: RewardBasis, after: int, until: int | None = None) -> Foretold | None:
        """How events after a number were foretold from those up to it; None where there are none."""
        late = self._number > after
        if until is not None:
            late &= self._number <= until
        if not bool(late.any()):
            return None
        people = fit_weights(self._pairs.select(self._number <= after), basis)
        test = self._pairs.select(late)
        everybody = basis.population.expand(len(test.users), -1)
        moment = max(event.received for event, kept in zip(self._events, late.tolist(), strict=True) if kept)
        return Foretold(moment, accuracy(test, basis, people), accuracy(test, basis, everybody))

    def over_time(self, basis: RewardBasis, after: int) -> list[Foretold]:
        """The same for spans of equally many events, each from all before it."""
        numbers = self._number[self._number > after].sort().values
        ends = [int(part[-1]) for part in numbers.tensor_split(_BLOCKS) if len(part)]
        spans = zip([after, *ends], ends, strict=False)
        found = (self.foretold(basis, begin, end) for begin, end in spans)
        return [one for one in found if one is not None]

    def map(self, basis: RewardBasis) -> Tensor:
        """People on the plane along which their tastes differ most, `[people, 2]`, in standard deviations of it."""
        weights = fit_weights(self._pairs, basis).weights.double()
        along = weights - weights.mean(0)
        # In units of reward, as directions may be of any length.
        along = along @ torch.linalg.qr(basis.vectors.double().cpu()).R.T
        place = along @ torch.linalg.svd(along, full_matrices=False).Vh[:2].T
        place = torch.nn.functional.pad(place, (0, 2 - place.shape[1]))
        return place / place.square().mean().sqrt().clamp(min=1e-12)


def recent(store: UserStore, tenant: str | None, after: int) -> list[list[Event]]:
    """Events of people who have any after a number, each person's in order; of those who chose last."""
    return [store.events(*person) for person in store.people(tenant, after, _PEOPLE)]


@dataclass(frozen=True)
class Standings:
    """A model of a store, and how it did beside the one that answers.

    Attributes:
        version: names it.
        serving: whether it is the one that answers.
        added: when it was, in seconds since 1970.
        family: of it.
        rank: of it.
        gain: its accuracy less that of the model that answers, on choices made after both were there; None for the
            latter, and where there are no such choices.
    """

    version: str
    serving: bool
    added: float
    family: str
    rank: int
    gain: Gain | None

    def to_json(self) -> dict[str, Any]:
        """As `lore model` and the server show it."""
        gained = None
        if self.gain is not None:
            sure = self.gain.low == self.gain.low  # JSON holds no NaN
            low, high = (self.gain.low, self.gain.high) if sure else (None, None)
            gained = {"mean": self.gain.mean, "low": low, "high": high}
        return {
            "version": self.version,
            "serving": self.serving,
            "added": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.added)),
            "family": self.family,
            "rank": self.rank,
            "gain": gained,
            "people": self.gain.users if self.gain else 0,
        }


def standings(store: UserStore, models: Models, tenant: str | None, vectors_of: VectorsOf) -> list[Standings]:
    """All models of a store, the oldest first, beside the one that answers.

    Choices of one tenant's people, or of everybody. Neither model has seen those that they are compared on.
    """
    stored = store.models()
    serving = models.of(store.served())
    own = next(model for model in stored if model.version == serving.version)
    found = []
    for model in stored:
        basis, since, gained = models.named(model.version).basis, max(model.since, own.since), None
        events = recent(store, tenant, since) if model is not own else []
        if events:
            seen = Hindsight(events, vectors_of)
            pair = [seen.foretold(either, since) for either in (basis, serving.basis)]
            if pair[0] is not None and pair[1] is not None:
                gained = gain(pair[0].personal, pair[1].personal)
        found.append(Standings(model.version, model is own, model.added, basis.family, basis.rank, gained))
    return found
