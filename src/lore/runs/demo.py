"""`lore demo`: the whole job on the embedded miniature of PersonalLLM."""

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from lore.data.formats import LoadResult, load
from lore.data.simulation import Population, simulate
from lore.embedding.store import Embeddings
from lore.progress import Progress, silent
from lore.runs.config import TrainConfig
from lore.runs.training import TrainOutcome, train

_ARGUMENTS: dict[str, Any] = {
    "family": "simplex",
    "unseen": 0.25,
    "train_pairs": 30,
    "shots": 10,
    "ranks": (1, 2, 4, 8),
}
_USERS = 400
_VECTORS = Path(__file__).parent / "miniature_vectors"  # of smollm2: they spare a minute or two


def run_demo(out: str | Path, *, seed: int = 0, force: bool = False, progress: Progress = silent) -> TrainOutcome:
    """300 seen users with 30 comparisons and 100 new ones with 10 judge the miniature; everything of `lore train`."""
    with as_file(files("lore.runs") / "miniature.parquet") as path:
        scored = load(path)
    population = Population(_USERS, comparisons=len(scored.prompts), seed=seed)
    reading = LoadResult(simulate(scored, population), [])
    config = TrainConfig(seed=seed, **_ARGUMENTS)
    reuse = [Embeddings.load(_VECTORS)]
    return train(reading, out, config, title="demo", force=force, reuse=reuse, progress=progress)
