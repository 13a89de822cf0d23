"""Data, an encoder and models that several tests begin with."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lore.data.messages import text_of
from lore.embedding import Encoded
from lore.pairs import Pairs


class HashEncoder:
    """A quick encoder: counts letters, so that like texts have like vectors."""

    dim = 26

    def __init__(self, name: str = "letters", reference: Tensor | None = None) -> None:
        self.fingerprint: dict[str, str | int] = {"encoder": name}
        self.reference = reference
        self.encoded = 0

    def encode(self, conversations: Sequence[Any]) -> Encoded:
        self.encoded += len(conversations)
        rows = [[text_of(response).lower().count(chr(97 + at)) for at in range(26)] for _, response in conversations]
        vectors = torch.tensor(rows, dtype=torch.float32).view(-1, 26)
        return Encoded.whole(vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1))


def random_pairs(
    users: int = 12, rows: int = 60, dim: int = 6, pairs: int = 240, *, seed: int = 0, polar: bool = False
) -> Pairs:
    """Choices of users with two planted tastes and a common one, some by chance."""
    rng = torch.Generator().manual_seed(seed)
    vectors = torch.randn(rows, dim, generator=rng, dtype=torch.float64)
    heads = torch.randn(dim, 2, generator=rng, dtype=torch.float64) * 2
    weights = torch.rand(users, 2, generator=rng, dtype=torch.float64)
    if polar:
        weights = torch.eye(2, dtype=torch.float64)[torch.arange(users) % 2]
    user = torch.randint(users, (pairs,), generator=rng)
    first, second = torch.randint(rows, (2, pairs), generator=rng)
    second = torch.where(first == second, (second + 1) % rows, second)
    margin = ((vectors[first] - vectors[second]) @ heads * weights[user]).sum(1)
    wins = torch.rand(pairs, generator=rng, dtype=torch.float64) < torch.sigmoid(margin)
    chosen, rejected = torch.where(wins, first, second), torch.where(wins, second, first)
    return Pairs.from_rows(vectors, chosen, rejected, user, users=[f"u{at}" for at in range(users)])


WORDS = ("apple", "bread", "cloud", "dream", "eagle", "flame", "grape", "house", "island", "jungle", "kettle", "lemon")


def small_rows(users: int = 6, prompts: int = 12) -> list[dict[str, Any]]:
    """Comparisons in which even users like long responses and odd ones short ones; texts are not alike in form."""
    rows = []
    for user in range(users):
        for prompt in range(prompts):
            longer = " ".join(WORDS[(prompt + step) % len(WORDS)] for step in range(5)) + f" {prompt}"
            shorter = f"{WORDS[(3 * prompt + 1) % len(WORDS)]} {prompt}"
            chosen, rejected = (longer, shorter) if user % 2 == 0 else (shorter, longer)
            rows.append({"user_id": f"u{user}", "prompt": f"Say {prompt}", "chosen": chosen, "rejected": rejected})
    return rows


Write = Callable[[Sequence[Any]], Path]
