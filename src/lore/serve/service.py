"""What the server does, without HTTP: rewards for people, and weights that follow their choices."""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from lore.ask import Question, next_comparisons
from lore.embedding import Embeddings, Encoder
from lore.embedding.tokens import Conversation
from lore.errors import DataError, LoreError
from lore.pairs import Pairs
from lore.personalize import UserWeights, fit_weights
from lore.preferences import Preferences
from lore.rewards import Reranked, require_encoder, reranked
from lore.run import Run
from lore.serve.hindsight import pairs_of_events
from lore.serve.models import Models, Served
from lore.serve.pool import Pool
from lore.serve.turnstile import Pause
from lore.serve.vectors import Vectors, as_bytes, kept_vectors
from lore.serve.writer import Writer
from lore.sources import load
from lore.train import choices_of_run
from lore.users import Batch, Conflict, Event, Gone, Receipt, UserStore

TENANT = "default"  # of the run's own people, and of everybody where there are no tokens
_REMEMBERED = 10_000  # people whose weights are held in memory
_AHEAD = 20  # questions that are looked ahead
_IMPORTED = 5_000  # of the run's events in one transaction


class ConflictError(LoreError):
    """The request contradicts what is known."""


class GoneError(LoreError):
    """The person was erased."""


class NotYetError(LoreError):
    """What was asked for is not known here yet."""


@dataclass(frozen=True)
class Person:
    """What is known of somebody, to one model.

    Attributes:
        served: the model.
        version: number of their last event; 0 without any.
        events: how many there are.
        judged: keys of the conversations that each compared.
        people: their weights, and the pairs these are from; None for somebody unknown.
        covariance: of the weights, `[columns, columns]` (gaussian family).
    """

    served: Served
    version: int
    events: int
    judged: list[tuple[bytes, bytes]]
    people: UserWeights | None
    covariance: Tensor | None

    @property
    def weights(self) -> Tensor:
        """`[columns]`; the population's for somebody unknown."""
        return self.served.basis.population if self.people is None else self.people.weights[0]


@dataclass(frozen=True)
class Scored:
    """Candidates in order, whether each was too long to be read whole, and by what is known of whom."""

    ranked: Reranked
    truncated: list[bool]
    person: Person


@dataclass(frozen=True)
class Asked:
    """A question to ask now.

    Attributes:
        question: what it tells.
        sides: the two conversations.
        left: questions that are worth asking from here on, this one among them; 20 at most.
    """

    question: Question
    sides: tuple[Conversation, Conversation]
    left: int


class Service:
    """A run, its encoder, and the store of what people chose."""

    def __init__(self, run: Run, encoder: Encoder, store: UserStore, pause: Pause = nullcontext) -> None:
        """Take a store into service; a new one begins with the run's own comparisons.

        Args:
            run: whose model is served.
            encoder: of the run.
            store: of what people chose.
            pause: entered while a request waits for the encoder or the disk.

        Raises:
            StoreError: the store holds vectors of another encoder, or is damaged.
        """
        self.run, self.store, self._pause = run, store, pause
        require_encoder(run, encoder)
        store.require_encoder(run.basis.encoder)
        self._embeddings = Embeddings.load(run.folder / "embeddings")
        self.vectors = Vectors(encoder, self._kept, pause)
        self._people: OrderedDict[tuple[str, str, str], Person] = OrderedDict()
        self._lock = threading.Lock()
        self._writer = Writer(store, pause)
        self.preferences = load(run.folder / "preferences.parquet")
        self._pool: Pool | None = None
        self._import()
        self.models = Models(store)
        self.models.begin(run.basis)

    def close(self) -> None:
        """Finish what was accepted."""
        self._writer.close()
        self.vectors.close()

    def _import(self) -> None:
        """The run's comparisons as events, once; interrupted, it goes on where it was, as ids do not change."""
        state = self.store.noted("run", self.preferences.fingerprint())
        if self.store.noted(f"imported {state}", "begun") == "done":
            return
        gone = {user for user in self.preferences.users if self.store.is_erased(TENANT, user)}
        events = (event for event in self._events_of_run() if event.user not in gone)
        while some := list(islice(events, _IMPORTED)):
            self.store.append([Batch(TENANT, some)])
        self.store.note(f"imported {state}", "done")

    def _events_of_run(self) -> Iterator[Event]:
        source = self.store.noted("run", self.preferences.fingerprint())
        for number, choice in enumerate(choices_of_run(self.run.folder)):
            sides = [self.preferences.conversation(row) for row in (choice.chosen, choice.rejected)]
            yield Event(f"run:{source}:{number}", choice.user, sides[0], sides[1], choice.weight, choice.label)

    # --- people ---------------------------------------------------------------------------------------------------

    def person(self, tenant: str, user: str | None, min_version: int = 0, model: str | None = None) -> Person:
        """What is known of somebody, from all of their events, by the function that training uses.

        Args:
            tenant: whose people.
            user: the person; None for the population.
            min_version: weights at least as new as this.
            model: the version of one; the one in service by default.

        Raises:
            NotYetError: less is known than `min_version` asks for.
            GoneError: the person was erased, so that `min_version` will never be known.
            ConfigError: there is no such model.
        """
        standing = self.store.standing(tenant, user)
        if standing.version < min_version:
            if user is not None and self.store.is_erased(tenant, user):
                raise GoneError("this person was erased; the version that is asked for will not come")
            raise NotYetError(f"version {min_version} of these weights is not known here yet; ask again")
        served = self.models.of(standing.served) if model is None else self.models.named(model)
        if user is None or standing.version == 0:
            return _stranger(served)
        key = (tenant, user, served.version)
        with self._lock:
            known = self._people.get(key)
        if known is None or known.version != standing.version:
            known = self._learned(tenant, user, served)
            with self._lock:
                self._people[key] = known
                self._people.move_to_end(key)
                while len(self._people) > _REMEMBERED:
                    self._people.popitem(last=False)
        return known

    def _learned(self, tenant: str, user: str, served: Served) -> Person:
        events = self.store.events(tenant, user)
        if not events:
            return _stranger(served)
        people = fit_weights(pairs_of_events([events], [user], self.table), served.basis)
        covariance = None
        if served.basis.family == "gaussian":
            covariance = people.covariance(torch.tensor([0]))[0].double()
        return Person(served, events[-1].number, len(events), [event.keys for event in events], people, covariance)

    def table(self, conversations: Sequence[Conversation]) -> Tensor:
        """Vectors `[conversations, dim]`."""
        return torch.stack([vector.values for vector in self.vectors.of(conversations)])

    def _kept(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        return kept_vectors(self._embeddings, self.store, keys)

    # --- requests -------------------------------------------------------------------------------------------------

    def rerank(
        self,
        tenant: str,
        user: str | None,
        conversations: Sequence[Conversation],
        min_version: int = 0,
        model: str | None = None,
    ) -> Scored:
        """Order responses for a person; by the population for somebody unknown.

        Args:
            tenant: whose people.
            user: the person; None for the population.
            conversations: prompts with responses to them.
            min_version: weights at least as new as this.
            model: the version of one; the one in service by default.

        Raises:
            DataError: there is nothing to order, or a text is too long.
            NotYetError: less is known of the person than `min_version` asks for.
        """
        if not conversations:
            raise DataError("`documents` is empty; give at least one response")
        person = self.person(tenant, user, min_version, model)
        vectors = self.vectors.of(conversations)
        table = torch.stack([vector.values for vector in vectors])
        known, basis = person.people is not None, person.served.basis
        ranked = reranked(user, known, basis, table, person.weights, person.covariance)
        return Scored(ranked, [vector.truncated for vector in vectors], person)

    def keyed(self, tenant: str, key: str, events: Sequence[Event]) -> None:
        """Note that a request of these choices has a key of its own.

        Raises:
            ConflictError: the key was used for other choices.
        """
        said = json.dumps([[event.user, event.content()] for event in events])
        digest = self.store.digest(said)
        if self.store.noted(f"key {self.store.digest(json.dumps([tenant, key]))}", digest) != digest:
            raise ConflictError("this `Idempotency-Key` was used for other choices; use a new one")

    def feedback(self, tenant: str, events: Sequence[Event]) -> int:
        """Commit choices; the version of the weights that has learned from them.

        Raises:
            ConflictError: an `event_id` was used for another choice.
            GoneError: the person was erased.
        """
        for event in events:
            if event.chosen == event.rejected:
                raise DataError("`chosen` and `rejected` are the same; a choice needs two responses")
        conversations = list(dict.fromkeys(said for event in events for said in (event.chosen, event.rejected)))
        vectors = self.vectors.of(conversations)
        keys = [key for event in events for key in event.keys]
        known = dict(zip(conversations, vectors, strict=True))
        sides = [said for event in events for said in (event.chosen, event.rejected)]
        in_run = self._embeddings.find(keys).tolist()
        fresh = {key: as_bytes(known[said]) for key, said, row in zip(keys, sides, in_run, strict=True) if row < 0}
        outcome = self._writer.append(Batch(tenant, events), fresh)
        if isinstance(outcome, Conflict):
            raise ConflictError(f"event_id {outcome.event_id!r} was used for another choice; use a new one")
        if isinstance(outcome, Gone):
            raise GoneError("this person was erased; nothing of theirs is accepted any more")
        return outcome.version

    def next_question(self, tenant: str, user: str, pool: Sequence[Conversation] | None = None) -> Asked:
        """The comparison worth asking next, among responses that are given or those of the run.

        Raises:
            DataError: there are fewer than two responses to choose from.
        """
        person = self.person(tenant, user)
        if pool is None:
            of_run = self.pool
            return _asked(person, of_run.vectors, of_run.unjudged(person.judged), of_run.conversation)
        if len(set(pool)) < 2:
            raise DataError("`candidates` must hold two different responses at least; give more")
        return _asked(person, self.table(pool), torch.combinations(torch.arange(len(pool))), pool.__getitem__)

    @property
    def pool(self) -> Pool:
        """The run's own responses as they are now."""
        # The store first: `forget_run` sets the table first, and a store may hold more than its table, never less.
        embeddings, preferences = self._embeddings, self.preferences
        pool = self._pool
        if pool is None or pool.preferences is not preferences:
            self._pool = pool = Pool.of(preferences, embeddings)
        return pool

    def forget_run(self, preferences: Preferences) -> None:
        """Go on with a table from which somebody was erased."""
        self.preferences = preferences
        self._embeddings = Embeddings.load(self.run.folder / "embeddings")

    def erase(self, tenant: str, user: str) -> Receipt:
        """Remove somebody from the database, and from memory."""
        events = self.store.events(tenant, user)
        receipt = self.store.erase(tenant, user)
        self.vectors.forget([key for event in events for key in event.keys])
        with self._lock:
            for key in [key for key in self._people if key[:2] == (tenant, user)]:
                del self._people[key]
        return receipt

    def overwrite(self) -> None:
        """Overwrite what was removed from the database, while others go on."""
        with self._pause():
            self.store.vacuum()


def _stranger(served: Served) -> Person:
    basis = served.basis
    covariance = torch.eye(basis.columns, dtype=torch.float64) if basis.family == "gaussian" else None
    return Person(served, 0, 0, [], None, covariance)


def _asked(person: Person, table: Tensor, pairs: Tensor | None, said: Callable[[int], Conversation]) -> Asked:
    """What to ask a person among pairs of rows of a table, whose conversations `said` gives."""
    questions = next_comparisons(_known(person, table), person.served.basis, table, pairs, count=_AHEAD)
    worth = (place for place, question in enumerate(questions) if question.stop)
    first = questions[0]
    return Asked(first, (said(first.first), said(first.second)), next(worth, len(questions)))


def _known(person: Person, table: Tensor) -> UserWeights:
    if person.people is not None:
        return person.people
    nobody = torch.zeros(0, dtype=torch.long)
    pairs = Pairs.from_rows(table[:1], nobody, nobody, nobody, users=["stranger"])
    return fit_weights(pairs, person.served.basis)
