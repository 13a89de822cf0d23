import numpy as np

from builders import HashEncoder
from lore.data.formats import load
from lore.embedding import encode
from lore.pairs.table import Pairs


def embedded(rows, **options) -> Pairs:
    preferences = load(rows)
    return Pairs.from_embeddings(preferences, encode(preferences, HashEncoder()), **options)


def rating_rows(users: int = 8, items: int = 20, *, prompt: bool = False) -> list[dict[str, object]]:
    rng = np.random.default_rng(0)
    return [
        {
            "user_id": f"u{user}",
            "prompt": f"p{item // 4}" if prompt else "",
            "response": f"{'abcdefghij'[item % 10] * (item + 1)} text",
            "rating": float(rng.integers(5)),
        }
        for user in range(users)
        for item in range(items)
    ]
