"""`lore demo`: the whole job on the embedded miniature of PersonalLLM."""

from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

from lore.data.formats import LoadResult, load
from lore.data.simulation import Population, simulate
from lore.progress import Progress, silent
from lore.runs.config import TrainConfig
from lore.runs.training import TrainOutcome, train

_DEMO = TrainConfig(family="simplex", unseen=0.25, train_pairs=30, shots=10, ranks=(1, 2, 4, 8))
_DEMO_USERS = 400


def run_demo(out: str | Path, *, seed: int = 0, force: bool = False, progress: Progress = silent) -> TrainOutcome:
    """300 seen users with 30 comparisons and 100 new ones with 10 judge the miniature; everything of `lore train`."""
    with as_file(files("lore.runs") / "miniature.parquet") as path:
        scored = load(path)
    population = Population(_DEMO_USERS, comparisons=len(scored.prompts), seed=seed)
    reading = LoadResult(simulate(scored, population), [])
    return train(reading, out, replace(_DEMO, seed=seed), title="demo", force=force, progress=progress)
