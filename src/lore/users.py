"""`UserStore`: people's choices in a database, each there once, committed before it is acknowledged."""

import hmac
import json
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any

from lore.embedding.tokens import Conversation
from lore.errors import MissingExtra, StoreError
from lore.preferences import conversation_key

try:
    import sqlalchemy as sql
    from sqlalchemy.exc import IntegrityError
except ImportError:  # pragma: no cover - the extra is installed wherever the tests run
    raise MissingExtra("sqlalchemy", "serve") from None

_LOCK = 0x4C6F5265  # of PostgreSQL's advisory locks
_MANY = 500  # values in one list of a query

metadata = sql.MetaData()
_number = sql.BigInteger().with_variant(sql.Integer, "sqlite")
_events = sql.Table(
    "events",
    metadata,
    sql.Column("number", _number, primary_key=True, autoincrement=True),
    sql.Column("tenant", sql.Text, nullable=False),
    sql.Column("event_id", sql.Text, nullable=False),
    sql.Column("user_id", sql.Text, nullable=False),
    sql.Column("chosen_key", sql.LargeBinary, nullable=False),
    sql.Column("rejected_key", sql.LargeBinary, nullable=False),
    sql.Column("content", sql.Text, nullable=False),
    sql.Column("received", sql.Float, nullable=False),
    sql.UniqueConstraint("tenant", "event_id"),
    sql.Index("events_of_user", "tenant", "user_id", "number"),
    sql.Index("events_by_chosen", "chosen_key"),
    sql.Index("events_by_rejected", "rejected_key"),
    sqlite_autoincrement=True,
)
_vectors = sql.Table(
    "vectors",
    metadata,
    sql.Column("key", sql.LargeBinary, primary_key=True),
    sql.Column("vector", sql.LargeBinary, nullable=False),
)
_erased = sql.Table(
    "erased",
    metadata,
    sql.Column("user_key", sql.Text, primary_key=True),
    sql.Column("receipt", sql.Text, nullable=False),
    sql.Column("at", sql.Float, nullable=False),
)
_tokens = sql.Table(
    "tokens",
    metadata,
    sql.Column("token_id", sql.Text, primary_key=True),
    sql.Column("tenant", sql.Text, nullable=False),
    sql.Column("scopes", sql.Text, nullable=False),
    sql.Column("digest", sql.LargeBinary, nullable=False),
    sql.Column("expires", sql.Float, nullable=True),
)
_notes = sql.Table(
    "notes",
    metadata,
    sql.Column("name", sql.Text, primary_key=True),
    sql.Column("value", sql.Text, nullable=False),
)
_models = sql.Table(
    "models",
    metadata,
    sql.Column("version", sql.Text, primary_key=True),
    sql.Column("config", sql.Text, nullable=False),
    sql.Column("tensors", sql.LargeBinary, nullable=False),
    sql.Column("since", _number, nullable=False),
    sql.Column("added", sql.Float, nullable=False),
)
_SERVED = "served"  # note: versions of models in the order in which they were put into service

# Asked with every request, and so made once.
_STANDING = sql.select(
    sql.select(sql.func.max(_events.c.number))
    .where(_events.c.tenant == sql.bindparam("tenant"), _events.c.user_id == sql.bindparam("user"))
    .scalar_subquery(),
    sql.select(_notes.c.value).where(_notes.c.name == _SERVED).scalar_subquery(),
)


@dataclass(frozen=True)
class Event:
    """One choice of one person.

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

    @property
    def keys(self) -> tuple[bytes, bytes]:
        """What the two conversations' vectors are kept under."""
        return conversation_key(*self.chosen), conversation_key(*self.rejected)

    def content(self) -> str:
        """All that two events of one id must have in common, but for the user."""
        return json.dumps([self.chosen, self.rejected, self.weight, self.label], ensure_ascii=False)

    @classmethod
    def stored(cls, user: str, row: Any) -> "Event":
        """The event of a row of the store."""
        chosen, rejected, weight, label = json.loads(row.content)
        sides = _conversation(chosen), _conversation(rejected)
        return cls(row.event_id, user, *sides, weight, label, row.number, row.received)


def _conversation(sides: list[Any]) -> Conversation:
    prompt, response = (tuple((role, text) for role, text in turns) for turns in sides)
    return prompt, response


@dataclass(frozen=True)
class Batch:
    """Events of one request, which are committed together or not at all."""

    tenant: str
    events: Sequence[Event]


@dataclass(frozen=True)
class Accepted:
    """What became of a batch: `version` is the number of its last event, the same however often it is sent."""

    version: int
    added: int


@dataclass(frozen=True)
class Conflict:
    """An `event_id` of the batch is known with another content; nothing of the batch was added."""

    event_id: str


@dataclass(frozen=True)
class Gone:
    """A person of the batch was erased; nothing of the batch was added."""

    user: str


Outcome = Accepted | Conflict | Gone


@dataclass(frozen=True)
class Receipt:
    """What an erasure removed."""

    receipt: str
    events: int
    vectors: int


@dataclass(frozen=True)
class Token:
    """Who may do what; the secret is known to its holder alone.

    Attributes:
        token_id: public part.
        tenant: whose people it is for.
        scopes: of "read", "feedback", "admin" and "erase".
        expires: seconds since 1970, or None.
    """

    token_id: str
    tenant: str
    scopes: frozenset[str]
    expires: float | None


SCOPES = frozenset({"read", "feedback", "admin", "erase"})


@dataclass(frozen=True)
class Standing:
    """What a request must know before it is answered.

    Attributes:
        version: number of the person's last event; 0 without any.
        served: versions of models in the order in which they were put into service; the last one answers.
    """

    version: int
    served: tuple[str, ...]


@dataclass(frozen=True)
class StoredModel:
    """A model that may be served.

    Attributes:
        version: names it.
        config: what `RewardBasis.serialized` says of it.
        tensors: its numbers, as safetensors.
        since: number of the last event that it may have learned from.
        added: seconds since 1970.
    """

    version: str
    config: str
    tensors: bytes
    since: int
    added: float


class UserStore:
    """People's choices, what is needed to learn from them, and who may touch them."""

    def __init__(self, engine: sql.Engine) -> None:
        """A database whose tables exist (`lore.serve.database.open_store`)."""
        self._engine = engine
        self._secret = self.noted("secret", secrets.token_hex(32)).encode()

    def close(self) -> None:
        """Release the database."""
        self._engine.dispose()

    @staticmethod
    def _note(connection: sql.Connection, name: str, value: str) -> str:
        """A note as it is known, or as it is now written down."""
        query = sql.select(_notes.c.value).where(_notes.c.name == name)
        known = connection.execute(query).scalar()
        if known is None:
            connection.execute(_notes.insert().values(name=name, value=value))
        return value if known is None else known

    def noted(self, name: str, value: str) -> str:
        """The value that was first given to this name."""
        try:
            with self._engine.begin() as connection:
                return self._note(connection, name, value)
        except IntegrityError:  # another process gave it one just now
            with self._engine.begin() as connection:
                return self._note(connection, name, value)

    def note(self, name: str, value: str) -> None:
        """Give this name another value."""
        with self._engine.begin() as connection:
            connection.execute(_notes.update().where(_notes.c.name == name).values(value=value))

    def require_encoder(self, fingerprint: dict[str, Any]) -> None:
        """Refuse vectors of another encoder than those that are kept here.

        Raises:
            StoreError: they are of another.
        """
        own = json.dumps(fingerprint, sort_keys=True)
        if self.noted("encoder", own) != own:
            raise StoreError("the database holds vectors of another encoder; serve its run, or give another --database")

    # --- choices --------------------------------------------------------------------------------------------------

    def append(self, batches: Sequence[Batch], vectors: dict[bytes, bytes] | None = None) -> list[Outcome]:
        """Commit batches in one transaction, each whole or not at all; events that are known already are not added.

        Args:
            batches: in order of arrival.
            vectors: of their conversations, by key.
        """
        try:
            return self._append(batches, vectors or {})
        except IntegrityError:  # another process was quicker with one of these: now it is known
            return self._append(batches, vectors or {})

    def _append(self, batches: Sequence[Batch], vectors: dict[bytes, bytes]) -> list[Outcome]:
        with self._engine.begin() as connection:
            self._in_turn(connection, erasing=False)
            known = self._known(connection, batches)
            gone = self._gone(connection, batches)
            outcomes: list[Outcome | None] = []
            fresh: list[dict[str, Any]] = []
            for batch in batches:
                refused = _refused(batch, known, gone)
                outcomes.append(refused)
                if refused is None:
                    fresh += _added(batch, known)
            if fresh:
                connection.execute(_events.insert(), fresh)
                keys = {row[side] for row in fresh for side in ("chosen_key", "rejected_key")}
                self._keep(connection, {key: vectors[key] for key in keys & vectors.keys()})
            numbers = self._numbers(connection, batches)
        added = {(row["tenant"], row["event_id"]) for row in fresh}
        return [
            Accepted(
                version=max(numbers[batch.tenant, event.event_id] for event in batch.events),
                added=len({(batch.tenant, event.event_id) for event in batch.events} & added),
            )
            if outcome is None
            else outcome
            for batch, outcome in zip(batches, outcomes, strict=True)
        ]

    def _known(self, connection: sql.Connection, batches: Sequence[Batch]) -> dict[tuple[str, str], tuple[str, str]]:
        """User and content of the events of these ids that are there."""
        columns = (_events.c.tenant, _events.c.event_id, _events.c.user_id, _events.c.content)
        rows = self._by_id(connection, batches, columns)
        return {(tenant, event_id): (user, content) for tenant, event_id, user, content in rows}

    def _numbers(self, connection: sql.Connection, batches: Sequence[Batch]) -> dict[tuple[str, str], int]:
        rows = self._by_id(connection, batches, (_events.c.tenant, _events.c.event_id, _events.c.number))
        return {(tenant, event_id): number for tenant, event_id, number in rows}

    @staticmethod
    def _by_id(connection: sql.Connection, batches: Sequence[Batch], columns: Sequence[Any]) -> list[Any]:
        ids: dict[str, list[str]] = {}
        for batch in batches:
            ids.setdefault(batch.tenant, []).extend(event.event_id for event in batch.events)
        rows: list[Any] = []
        for tenant, wanted in ids.items():
            for some in _slices(wanted):
                query = sql.select(*columns).where(_events.c.tenant == tenant, _events.c.event_id.in_(some))
                rows += connection.execute(query).all()
        return rows

    def _gone(self, connection: sql.Connection, batches: Sequence[Batch]) -> set[tuple[str, str]]:
        """People of these batches who were erased."""
        people = {(batch.tenant, event.user) for batch in batches for event in batch.events}
        keys = {self._user_key(*person): person for person in people}
        found: set[tuple[str, str]] = set()
        for some in _slices(list(keys)):
            query = sql.select(_erased.c.user_key).where(_erased.c.user_key.in_(some))
            found |= {keys[key] for key in connection.execute(query).scalars()}
        return found

    def events(self, tenant: str, user: str) -> list[Event]:
        """A person's events in order of arrival."""
        query = (
            sql.select(_events.c.number, _events.c.event_id, _events.c.content, _events.c.received)
            .where(_events.c.tenant == tenant, _events.c.user_id == user)
            .order_by(_events.c.number)
        )
        with self._engine.connect() as connection:
            return [Event.stored(user, row) for row in connection.execute(query)]

    def standing(self, tenant: str, user: str | None) -> Standing:
        """The version of a person's weights, and which models are in service."""
        with self._engine.connect() as connection:
            number, served = connection.execute(_STANDING, {"tenant": tenant, "user": user}).one()
        return Standing(number or 0, _versions(served))

    def served(self) -> tuple[str, ...]:
        """Versions of models in the order in which they were put into service."""
        with self._engine.connect() as connection:
            return _versions(connection.execute(sql.select(_notes.c.value).where(_notes.c.name == _SERVED)).scalar())

    def people(self, tenant: str | None, after: int, most: int) -> list[tuple[str, str]]:
        """Tenants and ids of people with events after a number, those who chose last first, `most` of them.

        Args:
            tenant: whose people; everybody's where it is None.
            after: a number of an event; 0 for all.
            most: of the people.
        """
        last = sql.func.max(_events.c.number)
        query = sql.select(_events.c.tenant, _events.c.user_id).group_by(_events.c.tenant, _events.c.user_id)
        if tenant is not None:
            query = query.where(_events.c.tenant == tenant)
        with self._engine.connect() as connection:
            rows = connection.execute(query.having(last > after).order_by(last.desc()).limit(most))
            return [(row.tenant, row.user_id) for row in rows]

    def counts(self, tenant: str) -> tuple[int, int]:
        """People with events, and events."""
        of_tenant = _events.c.tenant == tenant
        query = sql.select(sql.func.count(_events.c.user_id.distinct()), sql.func.count()).where(of_tenant)
        with self._engine.connect() as connection:
            people, events = connection.execute(query).one()
        return people, events

    # --- models ---------------------------------------------------------------------------------------------------

    def add_model(self, version: str, config: str, tensors: bytes) -> StoredModel:
        """Keep a model beside those that are there; one that is known already stays as it was."""
        with self._engine.begin() as connection:
            known = connection.execute(sql.select(_models).where(_models.c.version == version)).first()
            if known is None:
                since = connection.execute(sql.select(sql.func.max(_events.c.number))).scalar() or 0
                added = StoredModel(version, config, tensors, since, time.time())
                connection.execute(_models.insert().values(asdict(added)))
                return added
        return StoredModel(*known)

    def models(self) -> list[StoredModel]:
        """All models that are kept, the oldest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(sql.select(_models).order_by(_models.c.added, _models.c.version)).all()
        return [StoredModel(*row) for row in rows]

    def model(self, version: str) -> StoredModel | None:
        """The model of this version, if it is kept."""
        with self._engine.connect() as connection:
            row = connection.execute(sql.select(_models).where(_models.c.version == version)).first()
        return None if row is None else StoredModel(*row)

    def put_into_service(self, versions: Sequence[str]) -> None:
        """Serve the last of these models, which were put into service in this order."""
        value = json.dumps(list(versions))
        self.noted(_SERVED, value)
        self.note(_SERVED, value)

    # --- vectors --------------------------------------------------------------------------------------------------

    @staticmethod
    def _keep(connection: sql.Connection, vectors: dict[bytes, bytes]) -> None:
        keys = list(vectors)
        known: set[bytes] = set()
        for some in _slices(keys):
            known |= set(connection.execute(sql.select(_vectors.c.key).where(_vectors.c.key.in_(some))).scalars())
        rows = [{"key": key, "vector": vectors[key]} for key in keys if key not in known]
        if rows:
            connection.execute(_vectors.insert(), rows)

    def vectors(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Those of these vectors that are kept."""
        found: dict[bytes, bytes] = {}
        with self._engine.connect() as connection:
            for some in _slices(list(keys)):
                query = sql.select(_vectors.c.key, _vectors.c.vector).where(_vectors.c.key.in_(some))
                found |= {row.key: row.vector for row in connection.execute(query)}
        return found

    # --- erasure --------------------------------------------------------------------------------------------------

    def _user_key(self, tenant: str, user: str) -> str:
        """What tells that somebody was erased, and to nobody without the secret who it was."""
        return self.digest(json.dumps([tenant, user]))

    def erase(self, tenant: str, user: str) -> Receipt:
        """Remove a person's events, and vectors that only they need; no later event of theirs is accepted.

        Erasing again gives the first receipt's number, and removes nothing.
        """
        key = self._user_key(tenant, user)
        own = sql.and_(_events.c.tenant == tenant, _events.c.user_id == user)
        with self._engine.begin() as connection:
            self._in_turn(connection, erasing=True)
            sides = connection.execute(sql.select(_events.c.chosen_key, _events.c.rejected_key).where(own)).all()
            removed = connection.execute(_events.delete().where(own)).rowcount
            vectors = 0
            for some in _slices(list({side for pair in sides for side in pair})):
                needed = sql.exists().where(
                    sql.or_(_events.c.chosen_key == _vectors.c.key, _events.c.rejected_key == _vectors.c.key)
                )
                unneeded = _vectors.delete().where(_vectors.c.key.in_(some), ~needed)
                vectors += connection.execute(unneeded).rowcount
            known = connection.execute(sql.select(_erased.c.receipt).where(_erased.c.user_key == key)).scalar()
            receipt = known or secrets.token_hex(8)
            if known is None:
                connection.execute(_erased.insert().values(user_key=key, receipt=receipt, at=time.time()))
        return Receipt(receipt, removed, vectors)

    @staticmethod
    def _in_turn(connection: sql.Connection, *, erasing: bool) -> None:
        """Let no event come in between what an erasure reads and what it removes, from whichever process."""
        if connection.dialect.name == "sqlite":
            # The first write of a transaction takes the lock that there is one of.
            connection.execute(_notes.update().where(_notes.c.name == "secret").values(value=_notes.c.value))
            return
        lock = "pg_advisory_xact_lock" if erasing else "pg_advisory_xact_lock_shared"
        connection.execute(sql.select(getattr(sql.func, lock)(_LOCK)))

    def in_use(self, keys: Iterable[bytes]) -> set[bytes]:
        """Those of these conversations that events compare."""
        found: set[bytes] = set()
        with self._engine.connect() as connection:
            for some in _slices(list(keys)):
                for side in (_events.c.chosen_key, _events.c.rejected_key):
                    found |= set(connection.execute(sql.select(side).where(side.in_(some))).scalars())
        return found

    def is_erased(self, tenant: str, user: str) -> bool:
        """Whether a person was erased."""
        query = sql.select(_erased.c.user_key).where(_erased.c.user_key == self._user_key(tenant, user))
        with self._engine.connect() as connection:
            return connection.execute(query).first() is not None

    def vacuum(self) -> None:
        """Give back, and overwrite, the room of what was deleted (SQLite; PostgreSQL does so by itself, later)."""
        if self._engine.dialect.name != "sqlite":
            return
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM")
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    # --- tokens ---------------------------------------------------------------------------------------------------

    def create_token(self, tenant: str, scopes: Iterable[str], expires: float | None = None) -> str:
        """A new token, as its holder must give it: it is stored hashed and cannot be shown again."""
        token_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        row = {
            "token_id": token_id,
            "tenant": tenant,
            "scopes": ",".join(sorted(scopes)),
            "digest": _digest(secret),
            "expires": expires,
        }
        with self._engine.begin() as connection:
            connection.execute(_tokens.insert().values(row))
        return f"lore_{token_id}_{secret}"

    def tokens(self) -> list[Token]:
        """All tokens that are there, without their secrets."""
        with self._engine.connect() as connection:
            return [_token(row) for row in connection.execute(sql.select(_tokens).order_by(_tokens.c.token_id))]

    def token(self, given: str) -> Token | None:
        """The token that somebody gave, if it is one and has not expired."""
        parts = given.split("_", 2)
        if len(parts) != 3 or parts[0] != "lore":
            return None
        with self._engine.connect() as connection:
            row = connection.execute(sql.select(_tokens).where(_tokens.c.token_id == parts[1])).first()
        # An unknown id takes as long as a wrong secret.
        if not hmac.compare_digest(_digest(parts[2]), row.digest if row is not None else bytes(32)) or row is None:
            return None
        return None if row.expires is not None and row.expires < time.time() else _token(row)

    def rotate_token(self, token_id: str, at: float) -> str | None:
        """Another token in place of one that is valid, which ends at a time; None if there is none of this id."""
        with self._engine.connect() as connection:
            row = connection.execute(sql.select(_tokens).where(_tokens.c.token_id == token_id)).first()
        if row is None or (row.expires is not None and row.expires < time.time()):
            return None
        old = _token(row)
        self.expire_token(token_id, at if old.expires is None else min(at, old.expires))
        return self.create_token(old.tenant, old.scopes, old.expires)

    def digest(self, text: str) -> str:
        """What tells whether two texts are the same, and to nobody without the secret what they are."""
        return hmac.new(self._secret, text.encode(), sha256).hexdigest()

    def expire_token(self, token_id: str, at: float) -> Token | None:
        """Let a token end at a time, in seconds since 1970; None if there is none of this id."""
        with self._engine.begin() as connection:
            connection.execute(_tokens.update().where(_tokens.c.token_id == token_id).values(expires=at))
            row = connection.execute(sql.select(_tokens).where(_tokens.c.token_id == token_id)).first()
        return None if row is None else _token(row)


def _refused(
    batch: Batch, known: dict[tuple[str, str], tuple[str, str]], gone: set[tuple[str, str]]
) -> Conflict | Gone | None:
    """Why nothing of a batch can be added, if so."""
    within: dict[str, tuple[str, str]] = {}
    for event in batch.events:
        if (batch.tenant, event.user) in gone:
            return Gone(event.user)
        said = (event.user, event.content())
        before = known.get((batch.tenant, event.event_id), within.setdefault(event.event_id, said))
        if before != said:
            return Conflict(event.event_id)
    return None


def _added(batch: Batch, known: dict[tuple[str, str], tuple[str, str]]) -> list[dict[str, Any]]:
    """Rows of the events of a batch that are not known, which now are."""
    rows = []
    for event in batch.events:
        if (batch.tenant, event.event_id) in known:
            continue
        content = event.content()
        known[batch.tenant, event.event_id] = (event.user, content)
        chosen, rejected = event.keys
        rows.append(
            {
                "tenant": batch.tenant,
                "event_id": event.event_id,
                "user_id": event.user,
                "chosen_key": chosen,
                "rejected_key": rejected,
                "content": content,
                "received": time.time(),
            }
        )
    return rows


def _slices(values: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (values[start : start + _MANY] for start in range(0, len(values), _MANY))


def _versions(note: str | None) -> tuple[str, ...]:
    return () if note is None else tuple(json.loads(note))


def _digest(secret: str) -> bytes:
    return sha256(secret.encode()).digest()


def _token(row: Any) -> Token:
    return Token(row.token_id, row.tenant, frozenset(row.scopes.split(",")), row.expires)
