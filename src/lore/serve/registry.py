"""Models in service: one answers, others are served beside it, and one that was served before can be again."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from lore.errors import ConfigError
from lore.fitting.basis import RewardBasis
from lore.serve.store.models import StoredModel
from lore.serve.store.store import UserStore

_DIGITS = 12


@dataclass(frozen=True)
class LoadedModel:
    """A basis, and the version by which answers name it."""

    version: str
    basis: RewardBasis


class ModelRegistry:
    """The models of a store. Users' weights follow whichever is asked: they are solved from the log."""

    def __init__(self, store: UserStore) -> None:
        self._store = store
        self._loaded: dict[str, LoadedModel] = {}

    def add(self, basis: RewardBasis) -> StoredModel:
        """Keep a basis beside those that are there.

        Raises:
            StoreError: it is for vectors of another encoder than the store's.
        """
        self._store.require_encoder(basis.encoder)
        config, tensors = basis.serialized()
        return self._store.models.add(sha256(config.encode() + tensors).hexdigest()[:_DIGITS], config, tensors)

    def begin(self, basis: RewardBasis) -> None:
        """Keep a run's own basis; the first time that it is seen it is put into service."""
        existing = {model.version for model in self._store.models.all()}
        version = self.add(basis).version
        if version not in existing or not self._store.models.served():
            self.serve(version)

    def named(self, version: str) -> LoadedModel:
        """Return the model of a version.

        Raises:
            ConfigError: there is none.
        """
        if version not in self._loaded:
            stored = self._stored_model(version)
            self._loaded[version] = LoadedModel(version, RewardBasis.deserialized(stored.config, stored.tensors))
        return self._loaded[version]

    def of(self, served: Sequence[str]) -> LoadedModel:
        """Return the one that answers, where these were put into service in this order."""
        return self.named(served[-1])

    def serve(self, version: str) -> None:
        """Let a model answer from now on."""
        before = self._store.models.served()
        if before[-1:] != (self._stored_model(version).version,):
            self._store.models.put_into_service([*before, version])

    def roll_back(self) -> str:
        """Let the model answer that did before; its version.

        Raises:
            ConfigError: there was none.
        """
        *before, last = self._store.models.served() or ("",)
        if not before:
            raise ConfigError(f"no other model was served before {last or 'this'}; `lore model RUN --serve` takes one")
        self._store.models.put_into_service(before)
        return before[-1]

    def _stored_model(self, version: str) -> StoredModel:
        stored = self._store.models.get(version)
        if stored is None:
            raise ConfigError(f"there is no model {version!r} in this database; `lore model RUN` lists them")
        return stored
