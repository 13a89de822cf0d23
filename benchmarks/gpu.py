"""The engine's jobs on a GPU beside the CPU of the same machine: seconds, reads and how far the results differ.

One *read* is the median time of `X @ v` for the same `X` on the same device, in float32. Data, jobs and their settings
are those of `benchmarks/engine.py`. Prints the bandwidth of a copy and of a read, then a line a job and device.

    python benchmarks/gpu.py [A B C G]
"""

import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from engine import SEED, Figures, job_a, job_b, job_c, on_device, one_read, paired, personalllm, personalllm_file, timed
from torch import Tensor

from lore.fitting.likelihood import likelihood
from lore.pairs.table import Pairs

COLUMNS = 5  # of the basis in the products that are timed by themselves


def passes(pairs: Pairs) -> tuple[Figures, Tensor, Tensor]:
    """Gigabytes a second of a copy (read and written), of a read, and of the product and its adjoint; these two."""
    rng, vectors = torch.Generator().manual_seed(SEED), pairs.vectors
    table = likelihood(pairs, "users", 1.0)
    basis = torch.randn(pairs.dim, COLUMNS, generator=rng).to(vectors)
    values = torch.randn(len(pairs), COLUMNS, generator=rng).to(vectors)
    gigabytes = vectors.nbytes / 1e9
    product_seconds, product = timed(lambda: table.project(basis), 9)
    adjoint_seconds, adjoint = timed(lambda: table.project_transposed(values), 9)
    figures = {
        "copy_gb_per_second": round(2 * gigabytes / timed(vectors.clone, 9)[0]),
        "read_gb_per_second": round(gigabytes / one_read(vectors)),
        "product_gb_per_second": round(gigabytes / product_seconds),
        "adjoint_gb_per_second": round(gigabytes / adjoint_seconds),
    }
    return figures, product.cpu(), adjoint.cpu()


def job_g(scores: Tensor, path: Path, device: str) -> Figures:
    """PersonalLLM at the paper's size, from a file."""
    seconds, accuracies = timed(partial(personalllm, path, scores, device), 1)
    return {"seconds": seconds, "accuracy": accuracies}


def difference(name: str, first: Figures, second: Figures) -> float:
    """The largest relative difference of the objectives, of the accuracies for G."""
    if name == "G":
        return max(
            abs(a / b - 1)
            for rank, pair in first["accuracy"].items()
            for a, b in zip(pair, second["accuracy"][rank], strict=True)
        )
    ours, theirs = (torch.tensor(figures["objective"], dtype=torch.float64) for figures in (first, second))
    return float((ours / theirs - 1).abs().max())


def main(names: list[str]) -> None:
    if not torch.cuda.is_available():
        sys.exit("there is no CUDA device; run benchmarks/engine.py for the CPU alone")
    pairs, reference = paired(torch.Generator().manual_seed(SEED))
    devices = {"cuda": on_device(pairs, "cuda"), "cpu": pairs}
    print(json.dumps({"gpu": torch.cuda.get_device_name(), "threads": torch.get_num_threads()}))
    products, adjoints = [], []
    for device, moved in devices.items():
        figures, product, adjoint = passes(moved)
        products.append(product)
        adjoints.append(adjoint)
        print(json.dumps({"device": device, **figures}), flush=True)
    for name, (ours, theirs) in {"product": products, "adjoint": adjoints}.items():
        print(json.dumps({"pass": name, "relative_difference": float((ours - theirs).norm() / theirs.norm())}))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.safetensors"
        scores = personalllm_file(path) if "G" in names else torch.empty(0)
        jobs: dict[str, Callable[[str], Figures]] = {
            "A": lambda device: job_a(devices[device], reference.to(device)),
            "B": lambda device: job_b(devices[device], reference.to(device)),
            "C": lambda device: job_c(devices[device], reference.to(device)),
            "G": partial(job_g, scores, path),
        }
        for name in names:
            measured = {device: jobs[name](device) for device in devices}
            for device, figures in measured.items():
                figures["reads"] = round(figures["seconds"] / one_read(devices[device].vectors), 1)
                print(json.dumps({"job": name, "device": device, **figures}), flush=True)
            print(json.dumps({"job": name, "relative_difference": difference(name, *measured.values())}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["A", "B", "C", "G"])
