"""Compares encoders on public data sets of people's judgements, on the same splits, and prints tables for docs/results.

Everything is chosen within the training part, as in `lore train`. Gains are over the first encoder's same model.

LORE_DATA=/path/to/data python benchmarks/features.py EMBEDDINGS [SPLITS [SET ...]] > tables.md
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from over_splits import over_splits
from results import SETS, SETTINGS, of_families

import lore
from lore.evaluation.calibration import calibration
from lore.evaluation.evaluator import HeldOut, model_of
from lore.evaluation.sweep import Sweep, run_sweep
from lore.fitting.config import FitConfig
from lore.pairs.splits import Split

ENCODERS = ("minilm", "minilm+smollm2")
MODELS = ("pooled", "chosen", "wrong_user")
FIRST_SEED = 30  # splits that no feature was chosen on


def beside(splits: Mapping[str, Sequence[Mapping[str, HeldOut]]]) -> list[dict[str, HeldOut]]:
    """Return each split with the models of all encoders, by "encoder, model"."""
    joined = []
    for of_encoders in zip(*splits.values(), strict=True):
        one = {}
        for setting in SETTINGS:
            there = [
                (name, split[setting]) for name, split in zip(splits, of_encoders, strict=True) if setting in split
            ]
            if there:
                right = {
                    f"{name}, {model}": held.right[model]
                    for name, held in there
                    for model in MODELS
                    if model in held.right
                }
                one[setting] = HeldOut(there[0][1].pairs, right)
        joined.append(one)
    return joined


def calibration_errors(sweep: Sweep, parts: Split) -> dict[str, float]:
    """Return the expected calibration error of pooled and of the chosen model, for seen users on new prompts."""
    pooled = next(fit for fit in sweep.fits if model_of(fit) == "pooled")
    bases = {"pooled": pooled.basis, "chosen": sweep.chosen.basis}
    return {
        model: calibration(parts.seen_test, basis, lore.fit_weights(parts.seen_train, basis)).error
        for model, basis in bases.items()
    }


def table(name: str, splits: Sequence[Mapping[str, HeldOut]]) -> None:
    print(f"**{name}**\n")
    print("| users | encoder | pooled | gain | chosen | gain | chosen less pooled | wrong user |\n|" + "---|" * 8)
    for setting, users in SETTINGS.items():
        if not any(setting in split for split in splits):
            continue
        one = over_splits(splits, setting)
        for encoder in ENCODERS:
            cells = []
            for model in ("pooled", "chosen"):
                cells.append(one.accuracy(f"{encoder}, {model}"))
                first = f"{ENCODERS[0]}, {model}"
                cells.append("" if encoder == ENCODERS[0] else one.gain(f"{encoder}, {model}", first))
            cells.append(one.gain(f"{encoder}, chosen", f"{encoder}, pooled"))
            wrong = f"{encoder}, wrong_user"
            cells.append(one.gain(wrong, f"{encoder}, pooled") if wrong in one else "")
            print(f"| {users} | {encoder} | {' | '.join(cells)} |")
    print(flush=True)


def main(embeddings: Path, count: int, names: Sequence[str]) -> None:
    for name in names:
        preferences = lore.load(Path(os.environ["LORE_DATA"]) / SETS[name])
        splits: dict[str, list[dict[str, HeldOut]]] = {}
        errors: dict[str, list[dict[str, float]]] = {}
        for encoder in ENCODERS:
            vectors = lore.encode(preferences, encoder, store=embeddings / f"{name}-{encoder}")
            pairs = lore.Pairs.from_embeddings(preferences, vectors)
            splits[encoder], errors[encoder] = [], []
            for seed in range(FIRST_SEED, FIRST_SEED + count):
                parts, config = lore.split(pairs, seed=seed), FitConfig(seed=seed)
                sweep = run_sweep(parts, [1, "auto"], families=("simplex", "gaussian"), config=config)
                splits[encoder].append(of_families(sweep))
                errors[encoder].append(calibration_errors(sweep, parts))
                print(name, encoder, seed, errors[encoder][-1], file=sys.stderr, flush=True)
        table(name, beside(splits))
        for encoder, measured in errors.items():
            means = {model: sum(one[model] for one in measured) / len(measured) for model in measured[0]}
            print(f"{encoder}: ECE {', '.join(f'{model} {mean:.3f}' for model, mean in means.items())}", flush=True)
        print()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10, sys.argv[3:] or list(SETS))
