"""The gaussian family beside pooled and the simplex family, on public data.

LORE_DATA=/path/to/data python benchmarks/gaussian.py SET [SEEDS [MODELS]]

SET is dices350, jester5k, jester400 (its first 400 people), pandalm or ukpconvarg1. Every seed has its own split;
everything is chosen inside the training part. Prints one JSON line a seed, then means and 95 % intervals over the seeds
of the differences to pooled.
"""

import json
import math
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lore
from lore.calibration import calibration
from lore.errors import ConvergenceWarning
from lore.evaluate import accuracy
from lore.fit import Fit, fit_bases
from lore.personalize import fit_weights

SHOTS = (5, 20, 80, 200)
SETS = {
    # pairs of a person in each part, people, and by what they are split
    "dices350": ("dices350", {"pairs_per_user": 260}, {}),
    "jester400": ("jester5k", {"pairs_per_user": 200}, {}),
    "jester5k": ("jester5k", {"pairs_per_user": 200}, {}),
    "pandalm": ("pandalm/comparisons.jsonl", {}, {"unseen": 0.0}),
    "ukpconvarg1": ("ukpconvarg1/comparisons.jsonl", {}, {}),
}
STUDENT = {2: 12.7, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26, 12: 2.20}


def measured(name: str, fit: Fit, parts: lore.Split) -> dict[str, float]:
    """Accuracy, log loss and calibration error in percent or nats, on held-out groups."""
    found: dict[str, float] = {}
    for setting, trained in (("seen_test", parts.seen_train), ("unseen_test", parts.unseen_shots)):
        test = parts.parts()[setting]
        if not len(test):
            continue
        people = fit_weights(trained, fit.basis)
        found[f"{name} {setting}"] = 100 * accuracy(test, fit.basis, people).mean
        calibrated = calibration(test, fit.basis, people)
        found[f"{name} {setting} loss"] = calibrated.log_loss
        found[f"{name} {setting} ece"], found[f"{name} {setting} brier"] = calibrated.error, calibrated.brier
    if len(parts.unseen_test):
        for shots in SHOTS:
            few = fit_weights(parts.unseen_shots.shots(shots, seed=0), fit.basis)
            found[f"{name} {shots} shots"] = 100 * accuracy(parts.unseen_test, fit.basis, few).mean
        order = torch.randperm(len(parts.unseen_test.users), generator=torch.Generator().manual_seed(0))
        people = fit_weights(parts.unseen_shots, fit.basis).weights
        swapped = people.clone()
        swapped[order] = people[order.roll(1)]
        found[f"{name} wrong user"] = 100 * accuracy(parts.unseen_test, fit.basis, swapped).mean
    return found


def one_seed(pairs: lore.Pairs, seed: int, options: dict[str, Any], models: list[str]) -> dict[str, float]:
    parts = lore.split(pairs, seed=seed, **options)
    configs = {
        "pooled": lore.FitConfig(rank=1, seed=seed),
        "simplex": lore.FitConfig(rank=4, seed=seed),
        "gaussian": lore.FitConfig(family="gaussian", rank=8, seed=seed),
        "gaussian, T = 1": lore.FitConfig(family="gaussian", rank=8, tempering=1.0, seed=seed),
    }
    wanted = ["pooled", *(model for model in models if model != "pooled")]
    begin = time.perf_counter()
    fits = fit_bases(parts.seen_train, [configs[name] for name in wanted])
    found = {"seconds": time.perf_counter() - begin}
    for name, fit in zip(wanted, fits, strict=True):
        found |= measured(name, fit, parts)
    return found


def main() -> None:
    path, drawn, options = SETS[sys.argv[1]]
    seeds = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    models = sys.argv[3].split(";") if len(sys.argv) > 3 else ["simplex", "gaussian", "gaussian, T = 1"]
    warnings.simplefilter("ignore", ConvergenceWarning)
    preferences = lore.load(Path(os.environ["LORE_DATA"]) / path)
    store = lore.encode(preferences, store=Path("runs") / "gaussian" / sys.argv[1])
    rows = []
    for seed in range(seeds):
        pairs = lore.Pairs.from_embeddings(preferences, store, seed=seed, **drawn)
        if sys.argv[1] == "jester400":
            pairs = pairs.of_users(torch.arange(400))
        rows.append(one_seed(pairs, seed, options, models))
        print(json.dumps({"seed": seed, **{name: round(value, 4) for name, value in rows[-1].items()}}), flush=True)
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
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
