"""Vectors of conversations, by the key of the conversation."""

from collections.abc import Iterable

import sqlalchemy as sql

from lore.serve.store.tables import slices, vectors


class VectorStore:
    """Vectors as bytes, each there once."""

    def __init__(self, engine: sql.Engine) -> None:
        self._engine = engine

    def get(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the vectors of these keys that are stored."""
        stored: dict[bytes, bytes] = {}
        with self._engine.connect() as connection:
            for some in slices(list(keys)):
                query = sql.select(vectors.c.key, vectors.c.vector).where(vectors.c.key.in_(some))
                stored |= {row.key: row.vector for row in connection.execute(query)}
        return stored

    @staticmethod
    def add(connection: sql.Connection, new: dict[bytes, bytes]) -> None:
        """Add vectors that are not stored yet, within a transaction."""
        existing: set[bytes] = set()
        for some in slices(list(new)):
            existing |= set(connection.execute(sql.select(vectors.c.key).where(vectors.c.key.in_(some))).scalars())
        rows = [{"key": key, "vector": vector} for key, vector in new.items() if key not in existing]
        if rows:
            connection.execute(vectors.insert(), rows)
