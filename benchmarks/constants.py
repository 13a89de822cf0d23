"""Constants that were chosen on public data, tried again on users who had no part in the choice; for docs/results.md.

LORE_DATA=/path/to/data python benchmarks/constants.py EMBEDDINGS [SPLITS]

The users are those of jester5k from the 1,001st to the 1,400th. Prints the gain of the gaussian family and its log loss
for each factor of pairs that share items (`design_effect`), and the log loss of pooled for each scale of the
length of a response.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from over_splits import over_splits
from torch import Tensor

import lore
from lore.evaluation.calibration import calibration
from lore.evaluation.evaluator import HeldOut
from lore.evaluation.metrics import ProjectedPairs, correct
from lore.fitting import gaussian_model, likelihood
from lore.pairs.table import Pairs

USERS = range(1_000, 1_400)
PAIRS = 50  # of a user in each part: about as many as jokes, so that the factor decides
CHOSEN = 2.0  # the factor that `design_effect` has
FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0)
SCALES = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0)
SCALE = 0.3  # that MiniLM's vectors have


@contextmanager
def other_factor(factor: float) -> Iterator[None]:
    """Let this be the factor of users whose pairs share items, where it is the one that was chosen now."""
    original = likelihood.design_effect

    def limited(pairs: Pairs) -> Tensor:
        effect = original(pairs)
        return torch.where(effect == CHOSEN, torch.full_like(effect, factor), effect)

    for module in (likelihood, gaussian_model):
        module.design_effect = limited  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module in (likelihood, gaussian_model):
            module.design_effect = original  # type: ignore[attr-defined]


def right_and_loss(parts: lore.Split, config: lore.FitConfig) -> tuple[Tensor, float]:
    """How far new users' test pairs are right, and the log loss."""
    basis = lore.fit_basis(parts.seen_train, config).basis
    users = lore.fit_weights(parts.unseen_shots, basis)
    test = parts.unseen_test
    return correct(test, ProjectedPairs(test, basis).margins(users)), calibration(test, basis, users).log_loss


def with_length(pairs: Pairs, scale: float) -> Pairs:
    """Return the pairs with the length of a response at another scale; it is the last number of a vector."""
    vectors = pairs.vectors.clone()
    vectors[:, -1] *= scale / SCALE
    return replace(pairs, vectors=vectors)


def main() -> None:
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 6
    preferences = lore.load(Path(os.environ["LORE_DATA"]) / "jester5k")
    store = lore.encode(preferences, "minilm", store=Path(sys.argv[1]) / "jester5k")
    pairs = lore.Pairs.from_embeddings(preferences, store, pairs_per_user=PAIRS).for_users(torch.tensor(USERS))
    splits = [lore.split(pairs, seed=seed) for seed in range(count)]
    pooled = [right_and_loss(parts, lore.FitConfig(rank=1)) for parts in splits]
    for factor in FACTORS:
        with other_factor(factor):
            config = lore.FitConfig(family="gaussian", rank="auto")
            fitted = [right_and_loss(parts, config) for parts in splits]
        held_out = [
            {"unseen_test": HeldOut(parts.unseen_test, {"pooled": one[0], "gaussian": other[0]})}
            for parts, one, other in zip(splits, pooled, fitted, strict=True)
        ]
        loss = sum(other[1] - one[1] for one, other in zip(pooled, fitted, strict=True)) / count
        print(
            f"factor {factor}: {over_splits(held_out, 'unseen_test').gain('gaussian')}, log loss {loss:+.4f}",
            flush=True,
        )
    for scale in SCALES:
        scaled = [lore.split(with_length(pairs, scale), seed=seed) for seed in range(count)]
        losses = [right_and_loss(parts, lore.FitConfig(rank=1))[1] for parts in scaled]
        print(f"length {scale}: log loss of pooled {sum(losses) / count:.4f}", flush=True)


if __name__ == "__main__":
    main()
