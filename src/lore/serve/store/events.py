"""Users' choices: each there once, committed before it is acknowledged, and gone when a user is erased."""

import json
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError

from lore.data.messages import conversation_key
from lore.embedding.tokens import Conversation
from lore.serve.store.models import SERVED, versions
from lore.serve.store.settings import SettingStore
from lore.serve.store.tables import erased, events, settings, slices, vectors
from lore.serve.store.vectors import VectorStore

_LOCK = 0x4C6F5265  # of PostgreSQL's advisory locks

# Run with every request, and so built once.
_STATE = sql.select(
    sql.select(sql.func.max(events.c.number))
    .where(events.c.tenant == sql.bindparam("tenant"), events.c.user_id == sql.bindparam("user"))
    .scalar_subquery(),
    sql.select(settings.c.value).where(settings.c.name == SERVED).scalar_subquery(),
)


@dataclass(frozen=True)
class Event:
    """One choice of one user.

    Attributes:
        event_id: unique within a tenant.
        user: who chose.
        chosen: prompt and response that was preferred.
        rejected: prompt and response that was not.
        weight: what the choice counts.
        label: probability that chosen is preferred.
        number: that the store gave it, in order of arrival.
        received: when, in seconds since 1970.
    """

    event_id: str
    user: str
    chosen: Conversation
    rejected: Conversation
    weight: float = 1.0
    label: float = 1.0
    number: int = field(default=0, compare=False)
    received: float = field(default=0.0, compare=False)

    @cached_property
    def keys(self) -> tuple[bytes, bytes]:
        """Keys of the vectors of both conversations."""
        return conversation_key(*self.chosen), conversation_key(*self.rejected)

    @cached_property
    def content(self) -> str:
        """All that two events of one id must have in common, but for the user."""
        return json.dumps([self.chosen, self.rejected, self.weight, self.label], ensure_ascii=False)

    @classmethod
    def stored(cls, user: str, row: Any) -> "Event":
        """Return the event of a row of the store."""
        chosen, rejected, weight, label = json.loads(row.content)
        sides = _conversation(chosen), _conversation(rejected)
        return cls(row.event_id, user, *sides, weight, label, row.number, row.received)


def _conversation(sides: list[Any]) -> Conversation:
    prompt, response = (tuple((role, text) for role, text in messages) for messages in sides)
    return prompt, response


@dataclass(frozen=True)
class Batch:
    """Events of one request, which are committed together or not at all."""

    tenant: str
    events: Sequence[Event]


@dataclass(frozen=True)
class Accepted:
    """A committed batch: `version` is the number of its last event, the same however often it is sent."""

    version: int
    added: int


@dataclass(frozen=True)
class Conflict:
    """A refused batch: one `event_id` is stored with another content."""

    event_id: str


@dataclass(frozen=True)
class Erased:
    """A refused batch: one user was erased."""

    user: str


Outcome = Accepted | Conflict | Erased
EventId = tuple[str, str]  # tenant and event_id


@dataclass(frozen=True)
class Receipt:
    """A receipt of what an erasure removed."""

    receipt: str
    events: int
    vectors: int


@dataclass(frozen=True)
class StoreState:
    """The versions that a request needs before it is answered.

    Attributes:
        version: number of the user's last event; 0 without any.
        served: versions of models in the order in which they were put into service; the last one answers.
    """

    version: int
    served: tuple[str, ...]


class EventStore:
    """The log of events."""

    def __init__(self, engine: sql.Engine, setting_store: SettingStore) -> None:
        self._engine, self._settings = engine, setting_store

    # --- writing --------------------------------------------------------------------------------------------------

    def append(self, batches: Sequence[Batch], new_vectors: dict[bytes, bytes] | None = None) -> list[Outcome]:
        """Commit batches in one transaction, each whole or not at all; events that are stored are not added again.

        Args:
            batches: in order of arrival.
            new_vectors: of their conversations, by key.
        """
        try:
            return self._append(batches, new_vectors or {})
        except IntegrityError:  # another process was quicker with one of these: now it is stored
            return self._append(batches, new_vectors or {})

    def _append(self, batches: Sequence[Batch], new_vectors: dict[bytes, bytes]) -> list[Outcome]:
        with self._engine.begin() as connection:
            self._lock(connection, erasing=False)
            existing = self._contents(connection, batches)
            erased_users = self._erased_users(connection, batches)
            refusals: list[Conflict | Erased | None] = []
            rows: dict[EventId, dict[str, Any]] = {}
            for batch in batches:
                refusal = _refusal(batch, existing, erased_users)
                refusals.append(refusal)
                if refusal is None:
                    added = _rows(batch, existing)
                    rows |= added
                    existing |= {key: (row["user_id"], row["content"]) for key, row in added.items()}
            if rows:
                connection.execute(events.insert(), list(rows.values()))
                keys = {row[side] for row in rows.values() for side in ("chosen_key", "rejected_key")}
                VectorStore.add(connection, {key: new_vectors[key] for key in keys & new_vectors.keys()})
            numbers = self._numbers(connection, batches)
        return [
            refusal or _accepted(batch, numbers, rows.keys()) for batch, refusal in zip(batches, refusals, strict=True)
        ]

    def _contents(self, connection: sql.Connection, batches: Sequence[Batch]) -> dict[EventId, tuple[str, str]]:
        """Return user and content of the events of these ids that are stored."""
        columns = (events.c.tenant, events.c.event_id, events.c.user_id, events.c.content)
        rows = self._by_id(connection, batches, columns)
        return {(tenant, event_id): (user, content) for tenant, event_id, user, content in rows}

    def _numbers(self, connection: sql.Connection, batches: Sequence[Batch]) -> dict[EventId, int]:
        rows = self._by_id(connection, batches, (events.c.tenant, events.c.event_id, events.c.number))
        return {(tenant, event_id): number for tenant, event_id, number in rows}

    @staticmethod
    def _by_id(connection: sql.Connection, batches: Sequence[Batch], columns: Sequence[Any]) -> list[Any]:
        ids: dict[str, list[str]] = {}
        for batch in batches:
            ids.setdefault(batch.tenant, []).extend(event.event_id for event in batch.events)
        rows: list[Any] = []
        for tenant, wanted in ids.items():
            for some in slices(wanted):
                query = sql.select(*columns).where(events.c.tenant == tenant, events.c.event_id.in_(some))
                rows += connection.execute(query).all()
        return rows

    def _erased_users(self, connection: sql.Connection, batches: Sequence[Batch]) -> set[tuple[str, str]]:
        """Return tenant and id of the users of these batches who were erased."""
        users = {(batch.tenant, event.user) for batch in batches for event in batch.events}
        by_key = {self._user_key(*user): user for user in users}
        result: set[tuple[str, str]] = set()
        for some in slices(list(by_key)):
            query = sql.select(erased.c.user_key).where(erased.c.user_key.in_(some))
            result |= {by_key[key] for key in connection.execute(query).scalars()}
        return result

    # --- reading --------------------------------------------------------------------------------------------------

    def of_user(self, tenant: str, user: str) -> list[Event]:
        """Return a user's events in order of arrival."""
        query = (
            sql.select(events.c.number, events.c.event_id, events.c.content, events.c.received)
            .where(events.c.tenant == tenant, events.c.user_id == user)
            .order_by(events.c.number)
        )
        with self._engine.connect() as connection:
            return [Event.stored(user, row) for row in connection.execute(query)]

    def state(self, tenant: str, user: str | None) -> StoreState:
        """Return the version of a user's weights, and which models are in service."""
        with self._engine.connect() as connection:
            number, served = connection.execute(_STATE, {"tenant": tenant, "user": user}).one()
        return StoreState(number or 0, versions(served))

    def users(self, tenant: str | None, after: int, limit: int) -> list[tuple[str, str]]:
        """Return tenants and ids of users with events after a number, those who chose last first.

        Args:
            tenant: whose users; of all tenants if it is None.
            after: number of an event; 0 for all.
            limit: of the users.
        """
        last = sql.func.max(events.c.number)
        query = sql.select(events.c.tenant, events.c.user_id).group_by(events.c.tenant, events.c.user_id)
        if tenant is not None:
            query = query.where(events.c.tenant == tenant)
        with self._engine.connect() as connection:
            rows = connection.execute(query.having(last > after).order_by(last.desc()).limit(limit))
            return [(row.tenant, row.user_id) for row in rows]

    def counts(self, tenant: str) -> tuple[int, int]:
        """Return how many users have events, and how many events there are."""
        of_tenant = events.c.tenant == tenant
        query = sql.select(sql.func.count(events.c.user_id.distinct()), sql.func.count()).where(of_tenant)
        with self._engine.connect() as connection:
            users, count = connection.execute(query).one()
        return users, count

    def in_use(self, keys: Iterable[bytes]) -> set[bytes]:
        """Return the keys of conversations that events compare, among these."""
        used: set[bytes] = set()
        with self._engine.connect() as connection:
            for some in slices(list(keys)):
                for side in (events.c.chosen_key, events.c.rejected_key):
                    used |= set(connection.execute(sql.select(side).where(side.in_(some))).scalars())
        return used

    # --- erasure --------------------------------------------------------------------------------------------------

    def _user_key(self, tenant: str, user: str) -> str:
        """Return a keyed hash that marks a user as erased without storing the id."""
        return self._settings.digest(json.dumps([tenant, user]))

    def erase(self, tenant: str, user: str) -> Receipt:
        """Remove a user's events, and vectors that only these need; no later event of the user is accepted.

        Erasing again gives the first receipt's number, and removes nothing.
        """
        key = self._user_key(tenant, user)
        of_user = sql.and_(events.c.tenant == tenant, events.c.user_id == user)
        with self._engine.begin() as connection:
            self._lock(connection, erasing=True)
            sides = connection.execute(sql.select(events.c.chosen_key, events.c.rejected_key).where(of_user)).all()
            removed = connection.execute(events.delete().where(of_user)).rowcount
            removed_vectors = 0
            for some in slices(list({side for pair in sides for side in pair})):
                needed = sql.exists().where(
                    sql.or_(events.c.chosen_key == vectors.c.key, events.c.rejected_key == vectors.c.key)
                )
                unneeded = vectors.delete().where(vectors.c.key.in_(some), ~needed)
                removed_vectors += connection.execute(unneeded).rowcount
            existing = connection.execute(sql.select(erased.c.receipt).where(erased.c.user_key == key)).scalar()
            receipt = existing or secrets.token_hex(8)
            if existing is None:
                connection.execute(erased.insert().values({"user_key": key, "receipt": receipt, "at": time.time()}))
        return Receipt(receipt, removed, removed_vectors)

    def is_erased(self, tenant: str, user: str) -> bool:
        """Return True if a user was erased."""
        query = sql.select(erased.c.user_key).where(erased.c.user_key == self._user_key(tenant, user))
        with self._engine.connect() as connection:
            return connection.execute(query).first() is not None

    @staticmethod
    def _lock(connection: sql.Connection, *, erasing: bool) -> None:
        """Let no event come in between what an erasure reads and what it removes, from whichever process."""
        if connection.dialect.name == "sqlite":
            # The first write of a transaction takes the only lock that there is.
            connection.execute(settings.update().where(settings.c.name == "secret").values(value=settings.c.value))
            return
        lock = "pg_advisory_xact_lock" if erasing else "pg_advisory_xact_lock_shared"
        connection.execute(sql.select(getattr(sql.func, lock)(_LOCK)))


def _refusal(
    batch: Batch, existing: dict[EventId, tuple[str, str]], erased_users: set[tuple[str, str]]
) -> Conflict | Erased | None:
    """Return why nothing of a batch can be added, if so."""
    within: dict[str, tuple[str, str]] = {}
    for event in batch.events:
        if (batch.tenant, event.user) in erased_users:
            return Erased(event.user)
        content = (event.user, event.content)
        before = existing.get((batch.tenant, event.event_id), within.setdefault(event.event_id, content))
        if before != content:
            return Conflict(event.event_id)
    return None


def _rows(batch: Batch, existing: dict[EventId, tuple[str, str]]) -> dict[EventId, dict[str, Any]]:
    """Return rows of the events of a batch that are not stored, by id."""
    rows: dict[EventId, dict[str, Any]] = {}
    for event in batch.events:
        key = (batch.tenant, event.event_id)
        if key not in existing and key not in rows:
            chosen, rejected = event.keys
            rows[key] = {
                "tenant": batch.tenant,
                "event_id": event.event_id,
                "user_id": event.user,
                "chosen_key": chosen,
                "rejected_key": rejected,
                "content": event.content,
                "received": time.time(),
            }
    return rows


def _accepted(batch: Batch, numbers: dict[EventId, int], added: Iterable[EventId]) -> Accepted:
    ids = {(batch.tenant, event.event_id) for event in batch.events}
    return Accepted(version=max(numbers[key] for key in ids), added=len(ids & set(added)))
