"""Models that may be served, and which of them answers."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sql

from lore.serve.store.settings import SettingStore
from lore.serve.store.tables import events, models, settings

SERVED = "served"  # setting: versions of models in the order in which they were put into service


@dataclass(frozen=True)
class StoredModel:
    """A model that may be served.

    Attributes:
        version: names it.
        config: JSON of `RewardBasis.serialized`.
        tensors: safetensors of `RewardBasis.serialized`.
        since: number of the last event that it may have learned from.
        added: seconds since 1970.
    """

    version: str
    config: str
    tensors: bytes
    since: int
    added: float


class ModelStore:
    """Models by version."""

    def __init__(self, engine: sql.Engine, setting_store: SettingStore) -> None:
        self._engine, self._settings = engine, setting_store

    def add(self, version: str, config: str, tensors: bytes) -> StoredModel:
        """Store a model and return it; one of this version that is stored already stays as it was."""
        with self._engine.begin() as connection:
            existing = connection.execute(sql.select(models).where(models.c.version == version)).first()
            if existing is None:
                since = connection.execute(sql.select(sql.func.max(events.c.number))).scalar() or 0
                added = StoredModel(version, config, tensors, since, time.time())
                connection.execute(models.insert().values(asdict(added)))
                return added
        return StoredModel(*existing)

    def all(self) -> list[StoredModel]:
        """Return all models, the oldest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(sql.select(models).order_by(models.c.added, models.c.version)).all()
        return [StoredModel(*row) for row in rows]

    def get(self, version: str) -> StoredModel | None:
        """Return the model of a version, or None."""
        with self._engine.connect() as connection:
            row = connection.execute(sql.select(models).where(models.c.version == version)).first()
        return None if row is None else StoredModel(*row)

    def served(self) -> tuple[str, ...]:
        """Return versions in the order in which they were put into service; the last one answers."""
        with self._engine.connect() as connection:
            value = connection.execute(sql.select(settings.c.value).where(settings.c.name == SERVED)).scalar()
        return versions(value)

    def put_into_service(self, ordered: Sequence[str]) -> None:
        """Serve the last of these versions, which were put into service in this order."""
        value = json.dumps(list(ordered))
        self._settings.get_or_set(SERVED, value)
        self._settings.set(SERVED, value)


def versions(setting: str | None) -> tuple[str, ...]:
    """Return the versions in the value of the setting `SERVED`."""
    return () if setting is None else tuple(json.loads(setting))
