"""The operator's terminal: `lore token`, who may use a server, and `lore model`, which model answers."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from lore.data.messages import conversation_key
from lore.embedding.store import Embeddings
from lore.embedding.tokens import Conversation
from lore.errors import ConfigError, StoreError
from lore.fitting.basis import RewardBasis
from lore.runs.folder import RunFolder
from lore.serve.monitoring import ModelComparison, compare_models
from lore.serve.registry import ModelRegistry
from lore.serve.store.database import Database
from lore.serve.store.store import UserStore
from lore.serve.store.tokens import SCOPES, Token
from lore.serve.vectors import stored_vectors, vector_of

_DAY, _MINUTE = 86_400.0, 60.0  # seconds


@contextmanager
def _opened(url: str, *, begin: bool = True) -> Iterator[Database]:
    """Open the database of a server, which may be running."""
    database = Database(url, alone=False, begin=begin)
    try:
        yield database
    finally:
        database.close()


# --- tokens -------------------------------------------------------------------------------------------------------


def create_token(url: str, tenant: str, scopes: Sequence[str], days: float | None) -> list[str]:
    """Make a token; return lines to show, the token first.

    Args:
        url: of the database.
        tenant: whose users it is for.
        scopes: what it may do.
        days: until it expires; None for never.

    Raises:
        ConfigError: the tenant is empty, or a scope is unknown.
    """
    if not tenant.strip():
        raise ConfigError("`create` must name a tenant, got nothing")
    if unknown := set(scopes) - SCOPES:
        raise ConfigError(
            f"`scopes` must be of {', '.join(sorted(SCOPES))}, got {', '.join(map(repr, sorted(unknown)))}"
        )
    with _opened(url) as database:
        store = database.store
        expires = None if days is None else time.time() + days * _DAY
        return [store.tokens.create(tenant, scopes, expires), "(shown once: keep it where secrets are kept)"]


def rotate_token(url: str, token_id: str, overlap: float) -> list[str]:
    """Make a token in place of another, which goes on for some minutes; return lines to show.

    Raises:
        ConfigError: there is no valid token of this id.
    """
    with _opened(url) as database:
        store = database.store
        token = store.tokens.rotate(token_id, time.time() + overlap * _MINUTE)
        if token is None:
            raise ConfigError(f"there is no token {token_id!r} that is valid; `lore token RUN` lists them")
        return [token, f"(shown once; {token_id} goes on for {overlap:g} minutes)"]


def revoke_token(url: str, token_id: str) -> list[str]:
    """End a token now; return lines to show.

    Raises:
        ConfigError: there is no token of this id.
    """
    with _opened(url) as database:
        store = database.store
        if store.tokens.expire(token_id, time.time() - 1) is None:
            raise ConfigError(f"there is no token {token_id!r}; `lore token RUN` lists them")
        return [f"{token_id} is revoked"]


def list_tokens(url: str) -> list[str]:
    """Return a line for each token, without its secret."""
    with _opened(url) as database:
        store = database.store
        return [_token_line(token) for token in store.tokens.all()] or [
            "there are no tokens; make one with `lore token RUN --create TENANT`"
        ]


def _token_line(token: Token) -> str:
    until = ""
    if token.expires is not None:
        ended = "ended" if token.expires < time.time() else "until"
        until = f", {ended} {time.strftime('%Y-%m-%d %H:%M', time.localtime(token.expires))}"
    return f"{token.token_id}: {token.tenant}, {','.join(sorted(token.scopes))}{until}"


# --- models -------------------------------------------------------------------------------------------------------


@contextmanager
def _models(url: str) -> Iterator[tuple[UserStore, ModelRegistry]]:
    """Open a database that a server has begun; a running server takes up changes with its next request.

    Raises:
        StoreError: no server has begun it.
    """
    with _opened(url, begin=False) as database:
        if not database.store.models.served():
            raise StoreError(f"{database.name}: has no model yet; begin it with `lore serve RUN`")
        yield database.store, ModelRegistry(database.store)


def add_model(url: str, run: Path) -> list[str]:
    """Add the model of another RUN folder, to be compared with the one that answers; return lines to show.

    Raises:
        StoreError: no server has begun the database, or the model is for vectors of another encoder.
    """
    with _models(url) as (_, models):
        version = models.add(RewardBasis.load(RunFolder(run).model)).version
        return [f"{version} is served beside; `lore model RUN` compares them on choices from now on"]


def serve_model(url: str, version: str) -> list[str]:
    """Let a model answer; return lines to show.

    Raises:
        ConfigError: there is no such version.
    """
    with _models(url) as (_, models):
        models.serve(version)
        return [f"{version} answers"]


def roll_back(url: str) -> list[str]:
    """Let the model answer that did before; return lines to show.

    Raises:
        ConfigError: no other model has answered before.
    """
    with _models(url) as (_, models):
        return [f"{models.roll_back()} answers again"]


def list_models(run: Path, url: str) -> list[str]:
    """Return a line for each model, with how it did beside the one that answers.

    Args:
        run: the RUN folder that is served, for the vectors in it.
        url: of the database.
    """
    with _models(url) as (store, models):
        embeddings = Embeddings.load(RunFolder(run).embeddings)
        vectors_of = _VectorsOf(embeddings, store)
        return [_model_line(one) for one in compare_models(store, models, None, vectors_of)]


class _VectorsOf:
    """Looks up vectors of conversations on disk."""

    def __init__(self, embeddings: Embeddings, store: UserStore) -> None:
        self._embeddings, self._store = embeddings, store

    def __call__(self, conversations: Sequence[Conversation]) -> Tensor:
        keys = [conversation_key(*conversation) for conversation in conversations]
        stored = stored_vectors(self._embeddings, self._store.vectors, keys)
        if not all(key in stored for key in keys):
            raise StoreError("vectors of some choices are missing; give the RUN folder that is served")
        return torch.stack([vector_of(stored[key]).values for key in keys])


def _model_line(one: ModelComparison) -> str:
    model = f"{one.version}: {one.family}, rank {one.rank}, added {one.to_json()['added']}"
    if one.serving:
        return f"{model}, answers"
    if one.gain is None:
        return f"{model}, no choices yet to compare it on"
    gain = one.gain
    interval = f" (95 % interval {100 * gain.low:+.1f} to {100 * gain.high:+.1f})" if gain.low == gain.low else ""
    return f"{model}, {100 * gain.mean:+.1f} points{interval} beside the one that answers, {gain.users} users"
