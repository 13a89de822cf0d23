"""The gaussian family beside pooled and the simplex family, on public data; tables of docs/results.md.

LORE_DATA=/path/to/data python benchmarks/gaussian.py SET [SPLITS [MODELS]]

SET is dices350, jester5k (its first 2,000 users), jester400 (its first 400), jester5k-own and jester400-own (own
ratings of jokes that others rated held out), pandalm, ukpconvarg1 or demo. Everything is chosen inside the training
part. Prints one JSON line a split, then a table: gains over pooled with intervals for new users and new prompts.
"""

import json
import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from over_splits import over_splits
from torch import Tensor

import lore
from lore.data.simulation import Population, simulate
from lore.errors import ConvergenceWarning
from lore.evaluation.calibration import calibration
from lore.evaluation.controls import exchanged_weights
from lore.evaluation.evaluator import HeldOut
from lore.evaluation.metrics import ProjectedPairs, correct
from lore.fitting.config import Fit
from lore.fitting.personalize import fit_weights

SHOTS = (5, 20, 80, 200)
SETTINGS = {"seen_test": "seen users", "unseen_test": "new users, all their pairs"}
WRONG = "other users' weights"
SETS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # pairs of a user in each part, users, and by what they are split
    "dices350": ("dices350", {"pairs_per_user": 260}, {}),
    "jester400": ("jester5k", {"pairs_per_user": 200}, {}),
    "jester400-own": ("jester5k", {"pairs_per_user": 200}, {"by": "user"}),
    "jester5k": ("jester5k", {"pairs_per_user": 200}, {}),
    "jester5k-own": ("jester5k", {"pairs_per_user": 200}, {"by": "user"}),
    "pandalm": ("pandalm/comparisons.jsonl", {}, {"unseen": 0.0}),
    "ukpconvarg1": ("ukpconvarg1/comparisons.jsonl", {}, {}),
}
MODELS = {
    "pooled": lore.FitConfig(rank=1),
    "gaussian": lore.FitConfig(family="gaussian", rank="auto"),
    "ridge to pooled": lore.FitConfig(family="gaussian", rank=0),
    "simplex": lore.FitConfig(rank=4),
    "tempering 1": lore.FitConfig(family="gaussian", rank="auto", tempering=1.0),
}


def pairs_of(name: str) -> lore.Pairs:
    """The pairs of a set, drawn once; splits of them differ."""
    if name == "demo":
        return demo()
    path, drawn, _ = SETS[name]
    preferences = lore.load(Path(os.environ["LORE_DATA"]) / path)
    store = lore.encode(preferences, store=Path("runs") / "gaussian" / path.split("/")[0])
    pairs = lore.Pairs.from_embeddings(preferences, store, **drawn)
    users = {"jester400": 400, "jester5k": 2_000}.get(name.removesuffix("-own"))
    return pairs if users is None else pairs.for_users(torch.arange(users))


def demo(seed: int = 0) -> lore.Pairs:
    """The demo's population, all of whose prompts are judged."""
    with as_file(files("lore.runs") / "miniature.parquet") as path:
        scored = lore.load(path)
    preferences = simulate(scored, Population(400, comparisons=len(scored.prompts), seed=seed))
    store = lore.encode(preferences, store=Path("runs") / "gaussian" / "demo")
    return lore.Pairs.from_embeddings(preferences, store)


def split_of(name: str, pairs: lore.Pairs, seed: int, shots: int = 10) -> lore.Split:
    """The parts of a set; of the demo, as many comparisons as `lore demo` learns from, `shots` of a new user."""
    if name != "demo":
        return lore.split(pairs, seed=seed, **SETS[name][2])
    parts = lore.split(pairs, unseen=0.25, seed=seed)
    return replace(
        parts, seen_train=parts.seen_train.shots(30, seed), unseen_shots=parts.unseen_shots.shots(shots, seed)
    )


@dataclass
class Measured:
    """What one split shows.

    Attributes:
        right: by setting, then model: how far test pairs are ordered rightly.
        losses: log loss, expected calibration error and Brier score, by setting and model.
        ranks: rank of each model.
        seconds: of its fit.
    """

    right: dict[str, dict[str, Tensor]] = field(default_factory=lambda: {setting: {} for setting in SETTINGS})
    losses: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def measure(name: str, fit: Fit, parts: lore.Split, found: Measured) -> None:
    """Measure one model in both settings, and new users after a few pairs."""
    for setting, trained in (("seen_test", parts.seen_train), ("unseen_test", parts.unseen_shots)):
        test, right = parts.parts()[setting], found.right[setting]
        if not len(test):
            continue
        users, projected = fit_weights(trained, fit.basis), ProjectedPairs(test, fit.basis)
        right[name] = correct(test, projected.margins(users))
        calibrated = calibration(test, fit.basis, users)
        found.losses[f"{name} {setting}"] = calibrated.log_loss, calibrated.error, calibrated.brier
        if fit.basis.family == "gaussian" and 0 < fit.basis.rank < fit.basis.columns:
            short = fit_weights(trained, fit.basis, rank_only=True)
            right[f"{name} in rank numbers"] = correct(test, ProjectedPairs(test, short.basis).margins(short))
        if setting == "unseen_test":
            for shots in SHOTS:
                few = fit_weights(trained.shots(shots, seed=0), fit.basis)
                right[f"{name} after {shots}"] = correct(test, projected.margins(few))
        others = [correct(test, projected.margins(one)) for one in exchanged_weights(users.weights, trained, 0)]
        right[f"{name} {WRONG}"] = torch.stack(others).mean(0)


def one_split(parts: lore.Split, seed: int, models: Sequence[str]) -> Measured:
    found = Measured()
    for name in ["pooled", *models]:
        begin = time.perf_counter()
        fit = lore.fit_basis(parts.seen_train, replace(MODELS[name], seed=seed))
        found.seconds[name], found.ranks[name] = time.perf_counter() - begin, fit.basis.rank
        measure(name, fit, parts, found)
    return found


def table(splits: Sequence[tuple[lore.Split, Measured]], models: Sequence[str]) -> str:
    """Gains over pooled with their intervals; means of the losses over the splits."""
    lines, notes = [f"| | {' | '.join(models)} |", "|---" * (len(models) + 1) + "|"], list[str]()
    for setting, users in SETTINGS.items():
        if not any(len(parts.parts()[setting]) for parts, _ in splits):
            continue
        held_out = [{setting: HeldOut(parts.parts()[setting], found.right[setting])} for parts, found in splits]
        over = over_splits(held_out, setting)
        rows = {users: "", "in rank numbers": " in rank numbers", WRONG: f" {WRONG}"}
        rows |= {f"after {shots}": f" after {shots}" for shots in SHOTS}
        for row, suffix in rows.items():
            cells = [over.gain(model + suffix) if model + suffix in over else "" for model in models]
            if any(cells):
                lines.append(f"| {row} | {' | '.join(cells)} |")
        base = losses(splits, f"pooled {setting}")
        cells = []
        for model in models:
            loss, error, brier = losses(splits, f"{model} {setting}")
            cells.append(f"{loss - base[0]:+.3f}, {error:.3f}, {brier - base[2]:+.3f}")
        lines.append(f"| log loss, ECE, Brier | {' | '.join(cells)} |")
        notes.append(f"{users}: {over.users}; pooled {over.accuracy('pooled')}, {base[0]:.3f}, {base[1]:.3f}")
        notes += [f"- {models[0]} over {model}: {over.gain(models[0], model)}" for model in models[1:]]
    return "\n".join([*lines, "", *notes])


def losses(splits: Sequence[tuple[lore.Split, Measured]], key: str) -> list[float]:
    """Means over the splits of log loss, calibration error and Brier score."""
    return torch.tensor([found.losses[key] for _, found in splits]).mean(0).tolist()


def main() -> None:
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    models = sys.argv[3].split(";") if len(sys.argv) > 3 else list(MODELS)[1:]
    warnings.simplefilter("ignore", ConvergenceWarning)
    pairs, splits = pairs_of(sys.argv[1]), []
    for seed in range(count):
        parts = split_of(sys.argv[1], pairs, seed)
        found = one_split(parts, seed, models)
        splits.append((parts, found))
        print(json.dumps({"split": seed, "ranks": found.ranks, "seconds": found.seconds}), flush=True)
    print(table(splits, models))


if __name__ == "__main__":
    main()
