"""`lore model`: which model a server answers with."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lore.basis import RewardBasis
from lore.embedding import Embeddings
from lore.embedding.tokens import Conversation
from lore.errors import StoreError
from lore.preferences import conversation_key
from lore.serve.database import Database
from lore.serve.hindsight import Standings, standings
from lore.serve.models import Models
from lore.serve.vectors import kept_vectors, vector_of
from lore.users import UserStore


def change_models(run: Path, url: str, add: Path | None, serve: str | None, *, roll_back: bool) -> list[str]:
    """Add a model beside those that are there, let one answer, or list them; lines to show.

    A server that is running takes up the change with its next request.

    Args:
        run: the RUN folder that is served, for the vectors in it.
        url: of the database, which a server may have open.
        add: another RUN folder, whose model is to be served beside.
        serve: the version that is to answer.
        roll_back: let the model answer that did before.

    Raises:
        StoreError: no server has begun the database, or the model is for vectors of another encoder.
        ConfigError: a version is not known.
    """
    database = Database(url, alone=False, begin=False)
    try:
        store = database.store
        if not store.served():
            raise StoreError(f"{database.name}: has no model yet; begin it with `lore serve RUN`")
        models = Models(store)
        if add is not None:
            version = models.add(RewardBasis.load(add / "model")).version
            return [f"{version} is served beside; `lore model RUN` compares them on choices from now on"]
        if serve is not None:
            models.serve(serve)
            return [f"{serve} answers"]
        if roll_back:
            return [f"{models.roll_back()} answers again"]
        embeddings = Embeddings.load(run / "embeddings")
        return [_line(one) for one in standings(store, models, None, _VectorsOf(embeddings, store))]
    finally:
        database.close()


class _VectorsOf:
    """Vectors of conversations that lie on disk."""

    def __init__(self, embeddings: Embeddings, store: UserStore) -> None:
        self._embeddings, self._store = embeddings, store

    def __call__(self, conversations: Sequence[Conversation]) -> Tensor:
        keys = [conversation_key(*conversation) for conversation in conversations]
        kept = kept_vectors(self._embeddings, self._store, keys)
        if not all(key in kept for key in keys):
            raise StoreError("vectors of some choices are missing; give the RUN folder that is served")
        return torch.stack([vector_of(kept[key]).values for key in keys])


def _line(one: Standings) -> str:
    what = f"{one.version}: {one.family}, rank {one.rank}, added {one.to_json()['added']}"
    if one.serving:
        return f"{what}, answers"
    if one.gain is None:
        return f"{what}, no choices yet to compare it on"
    gain = one.gain
    sure = f" (95 % interval {100 * gain.low:+.1f} to {100 * gain.high:+.1f})" if gain.low == gain.low else ""
    return f"{what}, {100 * gain.mean:+.1f} points{sure} beside the one that answers, {gain.users} people"
