"""Compares all models on the four public data sets, ten splits each, and prints the tables of docs/results.md.

LORE_DATA=/path/to/data python benchmarks/results.py EMBEDDINGS [SPLITS [SET ...]] > tables.md
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from over_splits import over_splits

import lore
from lore.evaluation.evaluator import HeldOut, model_of
from lore.evaluation.finding import Finding
from lore.evaluation.summary import finding_of
from lore.evaluation.sweep import Sweep, run_sweep
from lore.fitting.config import FitConfig
from lore.pairs.table import Pairs

SETS = {
    "dices350": "dices350",
    "jester5k": "jester5k",
    "pandalm": "pandalm/comparisons.jsonl",
    "ukpconvarg1": "ukpconvarg1/comparisons.jsonl",
}
MODELS = ("pooled", "simplex", "gaussian", "chosen", "per_user", "wrong_user", "shuffled", "length", "item_rate")
SETTINGS = {"unseen_test": "new users", "seen_test": "seen users"}


def pairs_of(name: str, embeddings: Path) -> Pairs:
    """Read a data set and embed it, once."""
    preferences = lore.load(Path(os.environ["LORE_DATA"]) / SETS[name])
    return lore.Pairs.from_embeddings(preferences, lore.encode(preferences, "minilm", store=embeddings / name))


def of_families(sweep: Sweep) -> dict[str, HeldOut]:
    """Return `Sweep.held_out` with the fit of each family that validation chose under the family's name."""
    best: dict[str, str] = {}
    losses: dict[str, float] = {}
    for fit in sweep.fits:
        model = model_of(fit)
        if fit.validation is not None and fit.validation < losses.get(model, float("inf")):
            losses[model], best[model] = fit.validation, f"{model} {fit.basis.rank}"
    return {
        setting: HeldOut(
            one.pairs,
            {
                **{model: one.right[key] for model, key in best.items() if key in one.right},
                **{model: right for model, right in one.right.items() if model in MODELS},
            },
        )
        for setting, one in sweep.held_out.items()
    }


def table(splits: Sequence[Mapping[str, HeldOut]]) -> Iterator[str]:
    """Yield a table of accuracies and gains over all splits."""
    yield f"| model | {' | '.join(f'{users} | gain' for users in SETTINGS.values())} |"
    yield "|---" * (1 + 2 * len(SETTINGS)) + "|"
    settings = [over_splits(splits, setting) for setting in SETTINGS]
    for model in MODELS:
        cells = []
        for one in settings:
            cells.append(one.accuracy(model) if model in one else "")
            cells.append(one.gain(model) if model in one and model != "pooled" else "")
        if any(cells):
            yield f"| {model} | {' | '.join(cells)} |"
    yield ""
    yield ", ".join(
        f"{users}: {one.users} users, {one.choices:,} choices"
        for users, one in zip(SETTINGS.values(), settings, strict=True)
    )


def agreement(findings: Sequence[Finding], together: Finding) -> Iterator[str]:
    """Yield how often the finding of one split is that of all of them."""
    for group in together.groups:
        single = [next(one for one in each.groups if one.setting == group.setting) for each in findings]
        same = sum(one.verdict == group.verdict for one in single)
        gains = ", ".join(f"{100 * one.gain.mean:+.1f}" for one in single)
        yield (
            f"- {SETTINGS[group.setting]}: all splits together say “{group.verdict}”, {same} of {len(single)} single "
            f"ones say so, too; the others {sorted({one.verdict for one in single} - {group.verdict})}. Gains: {gains}."
        )
    yield f"- “{together.headline}”"


def main(embeddings: Path, count: int, names: Sequence[str]) -> None:
    for name in names:
        pairs = pairs_of(name, embeddings)
        sweeps = []
        for seed in range(count):
            parts = lore.split(pairs, seed=seed)
            config = FitConfig(seed=seed)
            sweeps.append(run_sweep(parts, [1, "auto"], families=("simplex", "gaussian"), config=config))
            print(f"{name}: split {seed + 1} of {count}", file=sys.stderr, flush=True)
        together = finding_of(sweeps[0], [sweep.held_out for sweep in sweeps[1:]])
        lines = [f"**{name}**", "", *table([of_families(sweep) for sweep in sweeps]), ""]
        print("\n".join([*lines, *agreement([finding_of(sweep) for sweep in sweeps], together)]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10, sys.argv[3:] or list(SETS))
