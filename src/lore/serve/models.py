"""Models in service: one answers, others are served beside it, and one that was served before can be again."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from lore.basis import RewardBasis
from lore.errors import ConfigError
from lore.users import StoredModel, UserStore

_DIGITS = 12


@dataclass(frozen=True)
class Served:
    """A basis, and the version by which answers name it."""

    version: str
    basis: RewardBasis


class Models:
    """The models of a store. People's weights follow whichever is asked: they are solved from the log."""

    def __init__(self, store: UserStore) -> None:
        self._store = store
        self._loaded: dict[str, Served] = {}

    def add(self, basis: RewardBasis) -> StoredModel:
        """Keep a basis beside those that are there.

        Raises:
            StoreError: it is for vectors of another encoder than the store's.
        """
        self._store.require_encoder(basis.encoder)
        config, tensors = basis.serialized()
        return self._store.add_model(sha256(config.encode() + tensors).hexdigest()[:_DIGITS], config, tensors)

    def begin(self, basis: RewardBasis) -> None:
        """Keep a run's own basis; the first time that it is seen it is put into service."""
        known = {model.version for model in self._store.models()}
        own = self.add(basis).version
        if own not in known or not self._store.served():
            self.serve(own)

    def named(self, version: str) -> Served:
        """The model of a version.

        Raises:
            ConfigError: there is none.
        """
        if version not in self._loaded:
            stored = self._known(version)
            self._loaded[version] = Served(version, RewardBasis.deserialized(stored.config, stored.tensors))
        return self._loaded[version]

    def of(self, served: Sequence[str]) -> Served:
        """The one that answers, where these were put into service in this order."""
        return self.named(served[-1])

    def serve(self, version: str) -> None:
        """Let a model answer from now on."""
        before = self._store.served()
        if before[-1:] != (self._known(version).version,):
            self._store.put_into_service([*before, version])

    def roll_back(self) -> str:
        """Let the model answer that did before; its version.

        Raises:
            ConfigError: there was none.
        """
        *before, last = self._store.served() or ("",)
        if not before:
            raise ConfigError(f"no other model was served before {last or 'this'}; `lore model RUN --serve` takes one")
        self._store.put_into_service(before)
        return before[-1]

    def _known(self, version: str) -> StoredModel:
        stored = self._store.model(version)
        if stored is None:
            raise ConfigError(f"there is no model {version!r} in this database; `lore model RUN` lists them")
        return stored
