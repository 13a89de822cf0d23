"""Prequential evaluation: each choice predicted from those before it, for the operator."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lore.evaluation.metrics import Accuracy, Gain, accuracy, anytime_gain
from lore.fitting.basis import RewardBasis
from lore.fitting.personalize import fit_weights
from lore.serve.learning import VectorsOf, pairs_of_events
from lore.serve.registry import ModelRegistry
from lore.serve.store.events import Event
from lore.serve.store.store import UserStore

_MAX_USERS = 500  # who chose last, of whom anything is computed

_BLOCKS = 12


@dataclass(frozen=True)
class PrequentialAccuracy:
    """The accuracy of predicting the choices of one span of time from those before it.

    Attributes:
        until: when the last of them was made, in seconds since 1970.
        personal: by each user's weights from what they chose before.
        common: by the population's.
    """

    until: float
    personal: Accuracy
    common: Accuracy


class PrequentialEvaluation:
    """Some users' events, and the models that may be asked about them."""

    def __init__(self, events: Sequence[Sequence[Event]], vectors_of: VectorsOf) -> None:
        """Users' events, each user's in order of arrival; not none at all."""
        self._events = [event for user_events in events for event in user_events]
        self._pairs = pairs_of_events(events, [str(number) for number in range(len(events))], vectors_of)
        self._number = torch.tensor([event.number for event in self._events])

    def evaluate_after(self, basis: RewardBasis, after: int, until: int | None = None) -> PrequentialAccuracy | None:
        """Predict events after a number from those up to it; None if there are none."""
        late = self._number > after
        if until is not None:
            late &= self._number <= until
        if not bool(late.any()):
            return None
        users = fit_weights(self._pairs.select(self._number <= after), basis)
        test = self._pairs.select(late)
        population = basis.population.expand(len(test.users), -1)
        moment = max(event.received for event, is_late in zip(self._events, late.tolist(), strict=True) if is_late)
        return PrequentialAccuracy(moment, accuracy(test, basis, users), accuracy(test, basis, population))

    def over_time(self, basis: RewardBasis, after: int) -> list[PrequentialAccuracy]:
        """Predict spans of equally many events, each from all before it."""
        numbers = self._number[self._number > after].sort().values
        ends = [int(part[-1]) for part in numbers.tensor_split(_BLOCKS) if len(part)]
        spans = zip([after, *ends], ends, strict=False)
        accuracies = (self.evaluate_after(basis, begin, end) for begin, end in spans)
        return [one for one in accuracies if one is not None]

    def map(self, basis: RewardBasis) -> Tensor:
        """Users on the plane along which their tastes differ most, `[users, 2]`, in standard deviations of it."""
        weights = fit_weights(self._pairs, basis).weights.double()
        along = weights - weights.mean(0)
        # In units of reward, as directions may be of any length.
        along = along @ torch.linalg.qr(basis.vectors.double().cpu()).R.T
        position = along @ torch.linalg.svd(along, full_matrices=False).Vh[:2].T
        position = torch.nn.functional.pad(position, (0, 2 - position.shape[1]))
        return position / position.square().mean().sqrt().clamp(min=1e-12)


def recent(store: UserStore, tenant: str | None, after: int) -> list[list[Event]]:
    """Events of users who have any after a number, each user's in order; of those who chose last."""
    return [store.events.of_user(*user) for user in store.events.users(tenant, after, _MAX_USERS)]


@dataclass(frozen=True)
class ModelComparison:
    """A model of a store, and how it did beside the one that answers.

    Attributes:
        version: names it.
        serving: whether it is the one that answers.
        added: when it was, in seconds since 1970.
        family: of it.
        rank: of it.
        gain: its accuracy less that of the model that answers, on choices made after both were there, with an interval
            that holds however often it is looked at; None for the latter, and where there are no such choices.
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
            "users": self.gain.users if self.gain else 0,
        }


def compare_models(
    store: UserStore, models: ModelRegistry, tenant: str | None, vectors_of: VectorsOf
) -> list[ModelComparison]:
    """All models of a store, the oldest first, beside the one that answers.

    Choices of one tenant's users, or of all users. Neither model has seen those that they are compared on.
    """
    stored = store.models.all()
    serving = models.of(store.models.served())
    answering = next(model for model in stored if model.version == serving.version)
    comparisons = []
    for model in stored:
        basis, since, gained = models.named(model.version).basis, max(model.since, answering.since), None
        events = recent(store, tenant, since) if model is not answering else []
        if events:
            seen = PrequentialEvaluation(events, vectors_of)
            pair = [seen.evaluate_after(either, since) for either in (basis, serving.basis)]
            if pair[0] is not None and pair[1] is not None:
                gained = anytime_gain(pair[0].personal, pair[1].personal)
        comparisons.append(
            ModelComparison(model.version, model is answering, model.added, basis.family, basis.rank, gained)
        )
    return comparisons
