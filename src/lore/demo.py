"""`lore demo` on the embedded miniature of PersonalLLM, and `lore reproduce` on the real data sets."""

from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal

from lore.progress import Progress, silent
from lore.simulate import Population, simulate
from lore.sources import Reading, load, read
from lore.train import TrainConfig, TrainOutcome, train

Experiment = Literal["personalllm", "prism", "tldr"]

# Users, and comparisons of seen and unseen ones, as in the paper's experiments (Bose et al. 2025, section 5).
_DEMO = TrainConfig(unseen=0.25, train_pairs=30, shots=10, ranks=(1, 2, 4, 8))
_DEMO_USERS = 400
_PERSONALLLM = TrainConfig(unseen=1 / 3, train_pairs=47, shots=9, ranks=(0, 1, 2, 3, 4, 5))
_PERSONALLLM_USERS = 1_500
_PERSONALLLM_COMPARISONS = 200
_HUMAN = {
    "prism": TrainConfig(by="user", test=0.5, ranks=(0, 1, 5, 10, 15, 20, 25, 50)),
    "tldr": TrainConfig(unseen=0.5, train_pairs=150, shots=50, ranks=(0, 1, 2, 3, 4, 5, 6)),
}


def run_demo(out: str | Path, *, seed: int = 0, force: bool = False, progress: Progress = silent) -> TrainOutcome:
    """300 seen people with 30 comparisons and 100 new ones with 10 judge the miniature; everything of `lore train`."""
    with as_file(files("lore") / "data" / "miniature.parquet") as path:
        scored = load(path)
    people = Population(_DEMO_USERS, comparisons=len(scored.prompts), seed=seed)
    reading = Reading(simulate(scored, people), [])
    return train(reading, out, replace(_DEMO, seed=seed), title="demo", force=force, progress=progress)


def run_experiment(
    experiment: Experiment,
    data: str | Path,
    out: str | Path,
    *,
    encoder: str = "minilm",
    seed: int = 0,
    force: bool = False,
    progress: Progress = silent,
) -> TrainOutcome:
    """One of the paper's experiments from its real data set."""
    if experiment == "personalllm":
        people = Population(_PERSONALLLM_USERS, comparisons=_PERSONALLLM_COMPARISONS, seed=seed)
        reading, config = Reading(simulate(load(data, format="personalllm"), people), []), _PERSONALLLM
    else:
        reading, config = read(data, format=experiment), _HUMAN[experiment]
    config = replace(config, encoder=encoder, seed=seed)
    return train(reading, out, config, title=experiment, force=force, progress=progress)
