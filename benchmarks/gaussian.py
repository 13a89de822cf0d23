"""The gaussian family beside pooled and the simplex family, on public data.

LORE_DATA=/path/to/data python benchmarks/gaussian.py SET [SEEDS [MODELS]]

SET is dices350, jester5k (its first 2,000 users), jester400 (its first 400), jester5k-own and jester400-own (own
ratings of jokes that others rated held out), pandalm, ukpconvarg1 or demo. Every seed has its own split; everything is
chosen inside the training part. Prints one JSON line a seed, then means and 95 % intervals over the seeds of the
differences to pooled.
"""

import json
import math
import os
import sys
import time
import warnings
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lore
from lore.data.simulation import Population, simulate
from lore.errors import ConvergenceWarning
from lore.evaluation.calibration import calibration
from lore.evaluation.metrics import accuracy
from lore.fitting.config import Fit
from lore.fitting.personalize import fit_weights

SHOTS = (5, 20, 80, 200)
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
STUDENT = {2: 12.7, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26, 12: 2.20}


MODELS = {
    "pooled": lore.FitConfig(rank=1),
    "simplex": lore.FitConfig(rank=4),
    "ridge to pooled": lore.FitConfig(family="gaussian", rank=0),
    "gaussian": lore.FitConfig(family="gaussian", rank="auto"),
    "tempering 1": lore.FitConfig(family="gaussian", rank="auto", tempering=1.0),
}


def pairs_of(name: str, seed: int) -> lore.Pairs:
    """The pairs of a set, as one seed draws them."""
    if name == "demo":
        return demo(seed)
    path, drawn, _ = SETS[name]
    preferences = lore.load(Path(os.environ["LORE_DATA"]) / path)
    store = lore.encode(preferences, store=Path("runs") / "gaussian" / path.split("/")[0])
    pairs = lore.Pairs.from_embeddings(preferences, store, seed=seed, **drawn)
    users = {"jester400": 400, "jester5k": 2_000}.get(name.removesuffix("-own"))
    return pairs if users is None else pairs.for_users(torch.arange(users))


def demo(seed: int) -> lore.Pairs:
    """The demo's population, all of whose prompts are judged."""
    with as_file(files("lore.runs") / "miniature.parquet") as path:
        scored = lore.load(path)
    preferences = simulate(scored, Population(400, comparisons=len(scored.prompts), seed=seed))
    store = lore.encode(preferences, store=Path("runs") / "gaussian" / "demo")
    return lore.Pairs.from_embeddings(preferences, store, seed=seed)


def split_of(name: str, pairs: lore.Pairs, seed: int, shots: int = 10) -> lore.Split:
    """The parts of a set; of the demo, as many comparisons as `lore demo` learns from, `shots` of a new user."""
    if name != "demo":
        return lore.split(pairs, seed=seed, **SETS[name][2])
    parts = lore.split(pairs, unseen=0.25, seed=seed)
    return replace(
        parts, seen_train=parts.seen_train.shots(30, seed), unseen_shots=parts.unseen_shots.shots(shots, seed)
    )


def measured(name: str, fit: Fit, parts: lore.Split) -> dict[str, float]:
    """Accuracy, log loss and calibration error in percent or nats, on held-out groups."""
    found: dict[str, float] = {}
    for setting, trained in (("seen_test", parts.seen_train), ("unseen_test", parts.unseen_shots)):
        test = parts.parts()[setting]
        if not len(test):
            continue
        users = fit_weights(trained, fit.basis)
        found[f"{name} {setting}"] = 100 * accuracy(test, fit.basis, users).mean
        calibrated = calibration(test, fit.basis, users)
        found[f"{name} {setting} loss"] = calibrated.log_loss
        found[f"{name} {setting} ece"], found[f"{name} {setting} brier"] = calibrated.error, calibrated.brier
        if fit.basis.family == "gaussian" and 0 < fit.basis.rank < fit.basis.columns:
            short = fit_weights(trained, fit.basis, rank_only=True)
            found[f"{name} {setting} in rank numbers"] = 100 * accuracy(test, short.basis, short).mean
    if len(parts.unseen_test):
        for shots in SHOTS:
            few = fit_weights(parts.unseen_shots.shots(shots, seed=0), fit.basis)
            found[f"{name} {shots} shots"] = 100 * accuracy(parts.unseen_test, fit.basis, few).mean
        order = torch.randperm(len(parts.unseen_test.users), generator=torch.Generator().manual_seed(0))
        weights = fit_weights(parts.unseen_shots, fit.basis).weights
        swapped = weights.clone()
        swapped[order] = weights[order.roll(1)]
        found[f"{name} wrong user"] = 100 * accuracy(parts.unseen_test, fit.basis, swapped).mean
    return found


def one_seed(parts: lore.Split, seed: int, models: list[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in ["pooled", *models]:
        begin = time.perf_counter()
        fit = lore.fit_basis(parts.seen_train, replace(MODELS[name], seed=seed))
        found |= {f"seconds of {name}": time.perf_counter() - begin, f"rank of {name}": float(fit.basis.rank)}
        found |= measured(name, fit, parts)
    return found


def main() -> None:
    seeds = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    models = sys.argv[3].split(";") if len(sys.argv) > 3 else list(MODELS)[1:]
    warnings.simplefilter("ignore", ConvergenceWarning)
    rows = []
    for seed in range(seeds):
        parts = split_of(sys.argv[1], pairs_of(sys.argv[1], seed), seed)
        rows.append(one_seed(parts, seed, models))
        print(json.dumps({"seed": seed, **{name: round(value, 4) for name, value in rows[-1].items()}}), flush=True)
    for name in rows[0]:
        values = np.array([row.get(name, math.nan) for row in rows])
        base = next((f"pooled{name.removeprefix(known)}" for known in models if name.startswith(known + " ")), None)
        line = f"{name}: {values.mean():.4g}"
        if base in rows[0]:
            gain = values - np.array([row[base] for row in rows])
            spread = gain.std(ddof=1) / math.sqrt(len(gain)) if len(gain) > 1 else math.nan
            line += f", less pooled {gain.mean():+.4f} ± {STUDENT.get(len(gain), 2.0) * spread:.4f}"
            line += f", above in {(gain > 0).sum()} of {len(gain)}"
        print(line)


if __name__ == "__main__":
    main()
