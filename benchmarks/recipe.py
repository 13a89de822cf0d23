"""The automatic simplex fit against validated pooled and against the published recipe; a table of docs/results.md.

The recipe: joint Adam from a normal start, 1,000 steps at learning rate 0.5, no penalty; new users by 500 steps at 0.1
(the settings of Bose et al. 2025). The temperature is 1 for all, as MiniLM's embeddings are of length one.

LORE_DATA=/path/to/data python benchmarks/recipe.py RUNS [set ...] > table.md
"""

import json
import math
import os
import sys
import warnings
from pathlib import Path
from statistics import mean, stdev

import torch

import lore
from lore.errors import ConvergenceWarning
from lore.files import read_json, write_json
from lore.fitting.basis import RewardBasis
from lore.fitting.fit import fit_bases

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import oracle

SETS = ("dices350", "jester5k")
SEEDS = range(6)
STUDENT = 2.571  # 97.5 % quantile of Student's t for six seeds
RANKS = (2, 4, 8)
SETTINGS = ("seen_train", "seen_test", "unseen_shots", "unseen_test")
Accuracies = dict[str, dict[str, float]]


def evaluated(parts: lore.Split, basis: RewardBasis, seen: torch.Tensor, unseen: torch.Tensor) -> dict[str, float]:
    """Accuracy in the four settings, in percent."""
    return {
        name: 100 * lore.accuracy(part, basis, seen if name.startswith("seen") else unseen).mean
        for name, part in parts.parts().items()
    }


def recipe(parts: lore.Split, rank: int, seed: int) -> dict[str, float]:
    """The published recipe at one rank."""
    train, shots = parts.seen_train.compact(), parts.unseen_shots.compact()
    zero = train.empty.new_zeros(train.dim)
    found = oracle.adam(train, rank, 0.0, zero, 1_000, 0.5, seed)
    basis = RewardBasis(found.basis, zero, torch.full((rank,), 1 / rank), family="simplex", rank=rank)
    return evaluated(parts, basis, found.weights, oracle.few_shot_adam(shots, found.basis, 500, 0.1, seed))


def measured(name: str, seed: int, runs: Path) -> Accuracies:
    """Accuracies of all models on one split; kept in a file, and read from there if it is there."""
    path = runs / f"{name}-{seed}.json"
    if not path.exists():
        preferences = lore.load(Path(os.environ["LORE_DATA"]) / name)
        store = lore.encode(preferences, encoder="minilm", store=runs / f"{name}-embeddings")
        parts = lore.split(lore.Pairs.from_embeddings(preferences, store, seed=seed), seed=seed)
        configs = [lore.FitConfig(rank=rank, seed=seed) for rank in (1, *RANKS)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            pooled, *personal = fit_bases(parts.seen_train, configs)
        ranked = {fit.basis.rank: fit for fit in personal}
        chosen = min(personal, key=lambda fit: fit.validation or math.inf)
        found: Accuracies = {}
        for label, fit in {
            "pooled": pooled,
            "simplex": chosen,
            **{f"simplex {k}": v for k, v in ranked.items()},
        }.items():
            weights = lore.fit_weights(parts.unseen_shots, fit.basis).weights
            found[label] = evaluated(parts, fit.basis, fit.weights, weights)
        for rank in RANKS:
            found[f"recipe {rank}"] = recipe(parts, rank, seed)
        found["recipe"] = found[f"recipe {chosen.basis.rank}"]
        write_json(path, found)
    return read_json(path)


def cell(values: list[float], *, signed: bool) -> str:
    half = STUDENT * stdev(values) / math.sqrt(len(values))
    return f"{mean(values):+.1f} ± {half:.1f}" if signed else f"{mean(values):.1f}"


def table(found: list[Accuracies]) -> str:
    """Accuracies by setting, then differences over the same splits, with their 95 % intervals."""
    lines = [f"| model | {' | '.join(SETTINGS)} |", "|---" * (len(SETTINGS) + 1) + "|"]
    labels = ["pooled", "simplex", *(f"{kind} {rank}" for rank in RANKS for kind in ("simplex", "recipe"))]
    for label in labels:
        row = [cell([one[label][setting] for one in found], signed=False) for setting in SETTINGS]
        lines.append(f"| {label}{', rank chosen by validation' if label == 'simplex' else ''} | {' | '.join(row)} |")
    for ours, other in [("simplex", "pooled"), ("simplex", "recipe")]:
        row = [cell([one[ours][setting] - one[other][setting] for one in found], signed=True) for setting in SETTINGS]
        lines.append(f"| {ours} less {other}{' at the same rank' if other == 'recipe' else ''} | {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> None:
    runs = Path(sys.argv[1])
    for name in sys.argv[2:] or SETS:
        found = []
        for seed in SEEDS:
            found.append(measured(name, seed, runs))
            print(json.dumps({"set": name, "seed": seed}), file=sys.stderr, flush=True)
        print(f"### {name}\n\n{table(found)}\n", flush=True)


if __name__ == "__main__":
    main()
