"""`lore demo`: the whole job on the embedded miniature of PersonalLLM."""

from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

from lore.progress import Progress, silent
from lore.simulate import Population, simulate
from lore.sources import Reading, load
from lore.train import TrainConfig, TrainOutcome, train

_DEMO = TrainConfig(family="simplex", unseen=0.25, train_pairs=30, shots=10, ranks=(1, 2, 4, 8))
_DEMO_USERS = 400


def run_demo(out: str | Path, *, seed: int = 0, force: bool = False, progress: Progress = silent) -> TrainOutcome:
    """300 seen people with 30 comparisons and 100 new ones with 10 judge the miniature; everything of `lore train`."""
    with as_file(files("lore") / "data" / "miniature.parquet") as path:
        scored = load(path)
    people = Population(_DEMO_USERS, comparisons=len(scored.prompts), seed=seed)
    reading = Reading(simulate(scored, people), [])
    return train(reading, out, replace(_DEMO, seed=seed), title="demo", force=force, progress=progress)
