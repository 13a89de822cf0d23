"""The automatic simplex fit against validated pooled and against the published recipe; a table of docs/results.md.

The recipe: joint Adam from a normal start, 1,000 steps at learning rate 0.5, no penalty; new users by 500 steps at 0.1
(the settings of Bose et al. 2025). The temperature is 1 for all, as MiniLM's embeddings are of length one.

LORE_DATA=/path/to/data python benchmarks/recipe.py EMBEDDINGS [SPLITS [SET ...]] > table.md
"""

import math
import os
import sys
import warnings
from pathlib import Path

import torch
from over_splits import over_splits
from torch import Tensor

import lore
from lore.errors import ConvergenceWarning
from lore.evaluation.evaluator import HeldOut
from lore.evaluation.metrics import ProjectedPairs, correct
from lore.fitting.basis import RewardBasis
from lore.fitting.fit import fit_bases

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import oracle

SETS = ("dices350", "jester5k")
RANKS = (2, 4, 8)
SETTINGS = ("seen_train", "seen_test", "unseen_shots", "unseen_test")
Right = dict[str, Tensor]  # by setting, `[pairs]`


def right(parts: lore.Split, basis: RewardBasis, seen: Tensor, unseen: Tensor) -> Right:
    """Return how far pairs are ordered rightly, in the four settings."""
    return {
        name: correct(part, ProjectedPairs(part, basis).margins(seen if name.startswith("seen") else unseen))
        for name, part in parts.parts().items()
    }


def recipe(parts: lore.Split, rank: int, seed: int) -> Right:
    """The published recipe at one rank."""
    train, shots = parts.seen_train.compact(), parts.unseen_shots.compact()
    zero = train.empty.new_zeros(train.dim)
    found = oracle.adam(train, rank, 0.0, zero, 1_000, 0.5, seed)
    basis = RewardBasis(found.basis, zero, torch.full((rank,), 1 / rank), family="simplex", rank=rank)
    return right(parts, basis, found.weights, oracle.few_shot_adam(shots, found.basis, 500, 0.1, seed))


def measured(parts: lore.Split, seed: int) -> dict[str, HeldOut]:
    """Return how far all models have the pairs of one split right, by setting."""
    configs = [lore.FitConfig(rank=rank, seed=seed) for rank in (1, *RANKS)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        pooled, *personal = fit_bases(parts.seen_train, configs)
    chosen = min(personal, key=lambda fit: fit.validation or math.inf)
    fits = {"pooled": pooled, "simplex": chosen, **{f"simplex {fit.basis.rank}": fit for fit in personal}}
    found = {
        label: right(parts, fit.basis, fit.weights, lore.fit_weights(parts.unseen_shots, fit.basis).weights)
        for label, fit in fits.items()
    }
    found |= {f"recipe {rank}": recipe(parts, rank, seed) for rank in RANKS}
    found["recipe"] = found[f"recipe {chosen.basis.rank}"]
    return {
        setting: HeldOut(part, {label: each[setting] for label, each in found.items()})
        for setting, part in parts.parts().items()
    }


def table(splits: list[dict[str, HeldOut]]) -> str:
    """Accuracies by setting, then differences with their 95 % intervals."""
    lines = [f"| model | {' | '.join(SETTINGS)} |", "|---" * (len(SETTINGS) + 1) + "|"]
    labels = ["pooled", "simplex", *(f"{kind} {rank}" for rank in RANKS for kind in ("simplex", "recipe"))]
    over = {setting: over_splits(splits, setting) for setting in SETTINGS}
    for label in labels:
        row = [over[setting].accuracy(label, ends=False) for setting in SETTINGS]
        lines.append(f"| {label}{', rank chosen by validation' if label == 'simplex' else ''} | {' | '.join(row)} |")
    for ours, other in [("simplex", "pooled"), ("simplex", "recipe")]:
        row = [over[setting].gain(ours, other) for setting in SETTINGS]
        lines.append(f"| {ours} less {other}{' at the same rank' if other == 'recipe' else ''} | {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> None:
    store, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 6
    for name in sys.argv[3:] or SETS:
        preferences = lore.load(Path(os.environ["LORE_DATA"]) / name)
        pairs = lore.Pairs.from_embeddings(preferences, lore.encode(preferences, "minilm", store=store / name))
        splits = []
        for seed in range(count):
            splits.append(measured(lore.split(pairs, seed=seed), seed))
            print(f"{name}: split {seed + 1} of {count}", file=sys.stderr, flush=True)
        print(f"**{name}**\n\n{table(splits)}\n", flush=True)


if __name__ == "__main__":
    main()
