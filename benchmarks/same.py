"""The net under a change that must not change a result: every number and every array of some jobs, and a comparison.

    python benchmarks/same.py write FOLDER          run all jobs with the installed version, into FOLDER
    python benchmarks/same.py compare FOLDER OTHER  what differs, number by number and array by array

The jobs: the demo; `lore train` with seed 0 and each family on dices350 and ukpconvarg1 (found by `LORE_DATA`); jobs A
and C of `benchmarks/engine.py` with a tenth of the users. Numbers are those of `report.json`, in its order, without
seconds, versions and format numbers. Arrays are the bases and the users' weights.
"""

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import engine
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from lore import Fit, FitConfig, fit_basis

NOT_RESULTS = {"seconds", "lore", "format", "encoder", "config", "gap", "optimality"}
ENGINE_USERS = 100  # a tenth of those of benchmarks/engine.py


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number below a JSON value, in its order, and where it stands."""
    if isinstance(value, dict):
        for name, part in value.items():
            if name not in NOT_RESULTS:
                yield from numbers(part, f"{path}/{name}")
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from numbers(part, f"{path}/{index}")
    elif isinstance(value, int | float):
        yield path, float(value)


def keep(folder: Path, job: str, values: list[tuple[str, float]], arrays: dict[str, torch.Tensor]) -> None:
    """Write the numbers and arrays of one job, and the hashes of the arrays."""
    hashes = {name: hashlib.sha256(array.numpy().tobytes()).hexdigest() for name, array in arrays.items()}
    (folder / f"{job}.json").write_text(json.dumps({"numbers": values, "hashes": hashes}, indent=1))
    save_file(arrays, folder / f"{job}.safetensors")


def trained(folder: Path, job: str, *arguments: str) -> None:
    """Run a command of `lore` into a RUN folder and keep its results."""
    run = folder / f"{job}.run"
    command = "import sys; from lore.cli import main; sys.argv[0] = 'lore'; main()"
    subprocess.run([sys.executable, "-c", command, *arguments, "--out", str(run)], check=True)
    report = json.loads((run / "report.json").read_text())
    model = load_file(run / "model" / "model.safetensors")
    keep(folder, job, list(numbers(report)), {**model, **load_file(run / "users" / "weights.safetensors")})


def fitted(folder: Path, job: str, config: FitConfig, data: tuple[Any, torch.Tensor]) -> None:
    """Fit a job of the engine and keep its results."""
    fit: Fit = fit_basis(data[0], config, data[1])
    values = [("loss", fit.loss), ("objective", fit.objective), ("steps", float(len(fit.history)))]
    keep(folder, job, values, {"vectors": fit.basis.vectors.contiguous(), "weights": fit.weights.contiguous()})


def write(folder: Path) -> None:
    """Run all jobs."""
    folder.mkdir(parents=True)
    trained(folder, "demo", "demo")
    data = Path(os.environ["LORE_DATA"])
    for name in ("dices350", "ukpconvarg1/comparisons.jsonl"):
        for family in ("simplex", "gaussian"):
            job = f"{Path(name).parts[0]}-{family}"
            trained(folder, job, "train", str(data / name), "--family", family, "--seed", "0")
    engine.USERS = ENGINE_USERS
    problem = engine.paired(torch.Generator().manual_seed(engine.SEED))
    fitted(folder, "A", FitConfig(rank=5, strength=1e-4, weight_strength=0.0), problem)
    cosine = FitConfig(rank=25, strength=1e4, weight_strength=0.0, penalty="cosine", average="pairs")
    fitted(folder, "C", cosine, problem)


def difference(left: float, right: float) -> float:
    """Absolute difference, relative where numbers are above 1."""
    return 0.0 if left == right else abs(left - right) / max(abs(left), abs(right), 1.0)


def compare(first: Path, second: Path) -> bool:
    """Print, for each job, how many numbers and arrays differ, and by how much at most."""
    same = True
    for path in sorted(first.glob("*.json")):
        left, right = (json.loads((folder / path.name).read_text()) for folder in (first, second))
        if len(left["numbers"]) != len(right["numbers"]):
            sys.exit(f"{path.stem}: {len(left['numbers'])} numbers against {len(right['numbers'])}")
        moved = [
            (difference(before, after), name)
            for (name, before), (_, after) in zip(left["numbers"], right["numbers"], strict=True)
            if before != after
        ]
        arrays = [load_file(folder / f"{path.stem}.safetensors") for folder in (first, second)]
        worst = max(
            (float(np.abs(arrays[0][name] - arrays[1][name]).max()) if len(arrays[0][name]) else 0.0)
            for name in arrays[0]
        )
        equal = left["hashes"] == right["hashes"]
        same = same and equal and not moved
        largest = max(moved, default=(0.0, "-"))
        print(
            f"{path.stem:22} {len(left['numbers']):5} numbers, {len(moved):4} differ by {largest[0]:.1e} at most "
            f"({largest[1]}); arrays {'equal to the bit' if equal else f'differ by {worst:.1e}'}"
        )
        if not math.isfinite(worst):
            same = False
    return same


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "write":
        write(Path(sys.argv[2]))
    elif len(sys.argv) == 4 and sys.argv[1] == "compare":
        sys.exit(0 if compare(Path(sys.argv[2]), Path(sys.argv[3])) else 1)
    else:
        sys.exit(__doc__)
