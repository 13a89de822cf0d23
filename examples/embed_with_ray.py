"""Embeds the conversations of a file on many machines with Ray Data, into one store.

python examples/embed_with_ray.py comparisons.jsonl runs/mine/embeddings MODEL [WORKERS]

Every worker holds a model and adds shards to the same folder, which all machines must see. A run that was killed goes
on with what is missing.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import ray

import lore
from lore.data.messages import conversation_key
from lore.embedding import load_encoder
from lore.embedding.shards import StoreFolder
from lore.embedding.store import missing_shards


class Worker:
    """A model, and the store it adds to."""

    def __init__(self, data: str, store: str, encoder: str) -> None:
        self.preferences = lore.load(data)
        self.encoder = load_encoder(encoder)
        self.folder = StoreFolder(Path(store))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Embed the shards of a batch, each a list of rows of the table."""
        for rows in batch["rows"]:
            conversations = [self.preferences.conversation(int(row)) for row in rows]
            keys = [conversation_key(*conversation) for conversation in conversations]
            self.folder.append(keys, self.encoder.encode(conversations))
        return {"embedded": np.array([len(rows) for rows in batch["rows"]])}


def embed(data: str, store: str, encoder: str, workers: int = 2) -> int:
    """Embed what is missing; how many conversations that was."""
    folder = StoreFolder(Path(store))
    folder.begin(load_encoder(encoder))
    shards = missing_shards(lore.load(data), Path(store))
    if shards:
        done = ray.data.from_items([{"rows": rows.tolist()} for rows in shards]).map_batches(
            Worker,
            fn_constructor_args=(data, store, encoder),
            batch_size=1,
            num_cpus=0.5,  # the rest is for Ray's own tasks; with a GPU for each worker: num_gpus=1
            compute=ray.data.ActorPoolStrategy(size=workers),
        )
        done.materialize()
    folder.merge()
    return sum(map(len, shards))


if __name__ == "__main__":
    file, store, encoder = (str(Path(argument).resolve()) for argument in sys.argv[1:4])
    print(embed(file, store, encoder, int(sys.argv[4]) if len(sys.argv) > 4 else 2))
