"""What the server does, without HTTP: rewards for people, and weights that follow their choices."""

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import torch
from torch import Tensor

from lore.ask import Question, next_comparison
from lore.embedding import Embeddings, Encoder
from lore.embedding.tokens import Conversation
from lore.errors import DataError, LoreError, StoreError
from lore.pairs import Pairs
from lore.personalize import UserWeights, fit_weights
from lore.preferences import Preferences
from lore.questionnaire import questions_of
from lore.rewards import Reranked, require_encoder, reranked
from lore.run import Run
from lore.serve.vectors import Vectors
from lore.serve.writer import Writer
from lore.sources import load
from lore.train import choices_of_run
from lore.users import Batch, Conflict, Event, Gone, Receipt, UserStore

TENANT = "default"  # of the run's own people, and of everybody where there are no tokens
_REMEMBERED = 10_000  # people whose weights are held in memory
_IMPORTED = 5_000  # of the run's events in one transaction


class ConflictError(LoreError):
    """The request contradicts what is known."""


class GoneError(LoreError):
    """The person was erased."""


class NotYetError(LoreError):
    """What was asked for is not known here yet."""


@dataclass(frozen=True)
class Person:
    """What is known of somebody.

    Attributes:
        version: number of their last event; 0 without any.
        events: how many there are.
        judged: keys of the conversations that each compared.
        people: their weights, and the pairs these are from; None for somebody unknown.
        covariance: of the weights, `[columns, columns]` (gaussian family).
    """

    version: int
    events: int
    judged: list[tuple[bytes, bytes]]
    people: UserWeights | None
    covariance: Tensor | None


@dataclass(frozen=True)
class Scored:
    """Candidates in order, whether each was too long to be read whole, and by which version of the weights."""

    ranked: Reranked
    truncated: list[bool]
    version: int


class Service:
    """A run, its encoder, and the store of what people chose."""

    def __init__(self, run: Run, encoder: Encoder, store: UserStore) -> None:
        """Take a store into service; a new one begins with the run's own comparisons.

        Raises:
            StoreError: the store holds vectors of another encoder, or is damaged.
        """
        self.run, self.store = run, store
        require_encoder(run, encoder)
        fingerprint = json.dumps(run.basis.encoder, sort_keys=True)
        if store.noted("encoder", fingerprint) != fingerprint:
            raise StoreError("the database holds vectors of another encoder; serve its run, or give another --database")
        self._embeddings = Embeddings.load(run.folder / "embeddings")
        self.vectors = Vectors(encoder, self._kept)
        self._people: OrderedDict[tuple[str, str], Person] = OrderedDict()
        self._lock = threading.Lock()
        self.model_version = str(run.basis.provenance.get("data", "unknown"))[:12]
        self._writer = Writer(store)
        self.preferences = load(run.folder / "preferences.parquet")
        self._import()

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

    def person(self, tenant: str, user: str | None, min_version: int = 0) -> Person:
        """What is known of somebody, from all of their events, by the function that training uses.

        Raises:
            NotYetError: less is known than `min_version` asks for.
        """
        if user is None:
            return self._stranger()
        version = self.store.version(tenant, user)
        if version < min_version:
            raise NotYetError(f"version {min_version} of these weights is not known here yet; ask again")
        with self._lock:
            known = self._people.get((tenant, user))
        if known is None or known.version != version:
            known = self._learned(tenant, user)
            with self._lock:
                self._people[tenant, user] = known
                self._people.move_to_end((tenant, user))
                while len(self._people) > _REMEMBERED:
                    self._people.popitem(last=False)
        return known

    def _stranger(self) -> Person:
        basis = self.run.basis
        covariance = torch.eye(basis.columns, dtype=torch.float64) if basis.family == "gaussian" else None
        return Person(0, 0, [], None, covariance)

    def _learned(self, tenant: str, user: str) -> Person:
        events, version = self.store.events(tenant, user)
        if not events:
            return self._stranger()
        people = fit_weights(self._pairs(user, events), self.run.basis)
        covariance = None
        if self.run.basis.family == "gaussian":
            covariance = people.covariance(torch.tensor([0]))[0].double()
        return Person(version, len(events), [event.keys for event in events], people, covariance)

    def _pairs(self, user: str, events: Sequence[Event]) -> Pairs:
        """Events as pairs of rows; a conversation that is in several is one row."""
        rows: dict[Conversation, int] = {}
        sides = [
            (rows.setdefault(event.chosen, len(rows)), rows.setdefault(event.rejected, len(rows))) for event in events
        ]
        table = torch.stack([vector.values for vector in self.vectors.of(list(rows))])
        chosen, rejected = torch.tensor(sides).T
        return Pairs.from_rows(
            table,
            chosen.contiguous(),
            rejected.contiguous(),
            torch.zeros(len(events), dtype=torch.long),
            users=[user],
            weight=torch.tensor([event.weight for event in events]),
            label=torch.tensor([event.label for event in events]),
        )

    def weights(self, person: Person) -> Tensor:
        """Somebody's weights `[columns]`; the population's for somebody unknown."""
        return self.run.basis.population if person.people is None else person.people.weights[0]

    def _kept(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Vectors that lie in the run, or in the database."""
        rows = self._embeddings.find(list(keys)).tolist()
        vectors = self._embeddings.vectors
        found = {key: _bytes(vectors[row]) for key, row in zip(keys, rows, strict=True) if row >= 0}
        return found | self.store.vectors([key for key in keys if key not in found])

    # --- requests -------------------------------------------------------------------------------------------------

    def rerank(
        self, tenant: str, user: str | None, conversations: Sequence[Conversation], min_version: int = 0
    ) -> Scored:
        """Order responses for a person; by the population for somebody unknown.

        Raises:
            DataError: there is nothing to order, or a text is too long.
            NotYetError: less is known of the person than `min_version` asks for.
        """
        if not conversations:
            raise DataError("`documents` is empty; give at least one response")
        person = self.person(tenant, user, min_version)
        vectors = self.vectors.of(conversations)
        table = torch.stack([vector.values for vector in vectors])
        known = person.people is not None
        ranked = reranked(user, known, self.run.basis, table, self.weights(person), person.covariance)
        return Scored(ranked, [vector.truncated for vector in vectors], person.version)

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
        fresh = {key: _bytes(known[said].values) for key, said, row in zip(keys, sides, in_run, strict=True) if row < 0}
        outcome = self._writer.append(Batch(tenant, events), fresh)
        if isinstance(outcome, Conflict):
            raise ConflictError(f"event_id {outcome.event_id!r} was used for another choice; use a new one")
        if isinstance(outcome, Gone):
            raise GoneError("this person was erased; nothing of theirs is accepted any more")
        return outcome.version

    def next_question(
        self, tenant: str, user: str, pool: Sequence[Conversation] | None = None
    ) -> tuple[Question, tuple[Conversation, Conversation]]:
        """The comparison worth asking next, among responses that are given or those of the run, and its two sides.

        Raises:
            DataError: there are fewer than two responses to choose from.
        """
        person = self.person(tenant, user)
        if pool is None:
            return self._from_run(person)
        if len(set(pool)) < 2:
            raise DataError("`candidates` must hold two different responses at least; give more")
        table = torch.stack([vector.values for vector in self.vectors.of(pool)])
        pairs = torch.combinations(torch.arange(len(pool)))
        question = next_comparison(self._known(person, table), self.run.basis, table, pairs)
        return question, (pool[question.first], pool[question.second])

    def _from_run(self, person: Person) -> tuple[Question, tuple[Conversation, Conversation]]:
        """Among the run's own responses to one prompt, those pairs left out that the person has judged."""
        table, pairs, numbers = self._pool
        if pairs is not None and person.judged:
            rows = [[numbers.get(key, -1) for key in both] for both in person.judged]
            judged = torch.tensor(rows, dtype=torch.long).sort(dim=1).values
            pairs = pairs[~torch.isin(pairs @ self._code, judged @ self._code)]
        if pairs is not None and len(pairs) == 0:
            raise DataError("this person has judged every pair that the run has; give `candidates`")
        question = next_comparison(self._known(person, table), self.run.basis, table, pairs)
        first, second = (self.preferences.conversation(row) for row in (question.first, question.second))
        return question, (first, second)

    @cached_property
    def _pool(self) -> tuple[Tensor, Tensor | None, dict[bytes, int]]:
        """The run's vectors, pairs of rows to ask about, and the row of each conversation."""
        rows = self._embeddings.rows(self.preferences)
        numbers = {key: row for row, key in enumerate(self.preferences.conversation_keys())}
        return self._embeddings.vectors[rows].float(), questions_of(self.preferences, seed=0), numbers

    @property
    def _code(self) -> Tensor:
        """What makes one number of two rows."""
        return torch.tensor([self.preferences.rows, 1])

    def _known(self, person: Person, table: Tensor) -> UserWeights:
        if person.people is not None:
            return person.people
        nobody = torch.zeros(0, dtype=torch.long)
        return fit_weights(Pairs.from_rows(table[:1], nobody, nobody, nobody, users=["stranger"]), self.run.basis)

    def along(self, column: int) -> Tensor:
        """Rewards of the run's responses along one direction, `[rows]`, less the population's."""
        basis, table = self.run.basis, self._pool[0]
        rewards = basis.coordinates(table)
        common = rewards @ basis.population.to(rewards) if basis.family == "simplex" else 0.0
        return rewards[:, column] - common

    def forget_run(self, preferences: Preferences) -> None:
        """Go on with a table from which somebody was erased."""
        self.preferences = preferences
        self._embeddings = Embeddings.load(self.run.folder / "embeddings")
        self.__dict__.pop("_pool", None)

    def erase(self, tenant: str, user: str) -> Receipt:
        """Remove somebody from the database, and from memory."""
        events, _ = self.store.events(tenant, user)
        receipt = self.store.erase(tenant, user)
        self.vectors.forget([key for event in events for key in event.keys])
        with self._lock:
            self._people.pop((tenant, user), None)
        self.store.vacuum()
        return receipt


def _bytes(vector: Tensor) -> bytes:
    return vector.float().cpu().numpy().astype("<f4").tobytes()
