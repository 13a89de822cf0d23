"""`UserStore`: users' choices, what is needed to learn from them, and who may touch them."""

import json
from typing import Any

import sqlalchemy as sql

from lore.errors import StoreError
from lore.serve.store.events import EventStore
from lore.serve.store.models import ModelStore
from lore.serve.store.settings import SettingStore
from lore.serve.store.tokens import TokenStore
from lore.serve.store.vectors import VectorStore


class UserStore:
    """The stores of one database.

    Attributes:
        settings: texts by name.
        events: users' choices.
        vectors: of conversations.
        models: that may be served.
        tokens: who may do what.
    """

    def __init__(self, engine: sql.Engine) -> None:
        """Take a database whose tables exist (`lore.serve.store.database`)."""
        self._engine = engine
        self.settings = SettingStore(engine)
        self.events = EventStore(engine, self.settings)
        self.vectors = VectorStore(engine)
        self.models = ModelStore(engine, self.settings)
        self.tokens = TokenStore(engine)

    def require_encoder(self, fingerprint: dict[str, Any]) -> None:
        """Refuse vectors of another encoder than those that are stored.

        Raises:
            StoreError: they are of another.
        """
        value = json.dumps(fingerprint, sort_keys=True)
        if self.settings.get_or_set("encoder", value) != value:
            raise StoreError("the database holds vectors of another encoder; serve its run, or give another `database`")

    def vacuum(self) -> None:
        """Overwrite and give back the room of what was deleted (SQLite; PostgreSQL does so by itself, later)."""
        if self._engine.dialect.name != "sqlite":
            return
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM")
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
