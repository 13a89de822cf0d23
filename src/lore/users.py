"""`UserStore`: people's choices on disk, each there once, committed before it is acknowledged."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lore.errors import ConfigError, MissingExtra
from lore.preferences import Turns

try:
    import sqlalchemy as sql
except ImportError:  # pragma: no cover - the extra is installed wherever the tests run
    raise MissingExtra("sqlalchemy", "serve") from None


@dataclass(frozen=True)
class Event:
    """One choice of one person."""

    event_id: str
    user: str
    prompt: Turns
    chosen: Turns
    rejected: Turns


_metadata = sql.MetaData()
_events = sql.Table(
    "events",
    _metadata,
    sql.Column("number", sql.Integer, primary_key=True),
    sql.Column("event_id", sql.String, nullable=False, unique=True),
    sql.Column("user_id", sql.String, nullable=False, index=True),
    sql.Column("content", sql.Text, nullable=False),
)


class UserStore:
    """Events in a SQLite file, with a write-ahead log that is synced at every commit."""

    def __init__(self, path: str | Path) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._engine = sql.create_engine(f"sqlite:///{path}")
        sql.event.listen(self._engine, "connect", _durable)
        _metadata.create_all(self._engine)

    def append(self, events: Sequence[Event]) -> int:
        """Commit events; one that is there already, to the letter, is not added again. Returns how many were new.

        Raises:
            ConfigError: an `event_id` is there with other content; nothing is added.
        """
        added = 0
        with self._engine.begin() as connection:
            for event in events:
                content = json.dumps([event.prompt, event.chosen, event.rejected], ensure_ascii=False)
                same_id = sql.select(_events.c.user_id, _events.c.content).where(_events.c.event_id == event.event_id)
                known = connection.execute(same_id).first()
                if known is None:
                    row = {"event_id": event.event_id, "user_id": event.user, "content": content}
                    connection.execute(_events.insert().values(row))
                    added += 1
                elif tuple(known) != (event.user, content):
                    raise ConfigError(f"event_id {event.event_id!r} was used for another choice; use a new one")
        return added

    def events(self, user: str) -> list[Event]:
        """All events of a person, in order of arrival."""
        query = sql.select(_events.c.event_id, _events.c.content).where(_events.c.user_id == user).order_by("number")
        with self._engine.connect() as connection:
            rows = connection.execute(query).all()
        return [Event(event_id, user, *(_turns(side) for side in json.loads(content))) for event_id, content in rows]

    def close(self) -> None:
        """Release the file."""
        self._engine.dispose()


def _turns(side: list[list[str]]) -> Turns:
    return tuple((role, content) for role, content in side)


def _durable(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
