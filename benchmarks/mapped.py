"""A fit on embeddings larger than the memory it may use: seconds, and the most private memory at any time.

(ulimit -d 2097152; python benchmarks/mapped.py)      # at most 2 GB of private memory, 6 GB of embeddings
"""

import json
import tempfile
import threading
import time
from pathlib import Path

import torch

from lore.fitting.fit import FitConfig, fit_basis
from lore.pairs.table import Pairs

ROWS, DIM, BLOCK = 750_000, 2_048, 5_000


def write_vectors(path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    with path.open("wb") as file:
        for _ in range(ROWS // BLOCK):
            torch.randn(BLOCK, DIM, generator=rng).numpy().tofile(file)


def private_gib() -> float:
    """Anonymous resident memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 2**20


class Watch(threading.Thread):
    """Samples the private memory twenty times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.done = 0.0, threading.Event()

    def run(self) -> None:
        """Until `done` is set."""
        while not self.done.wait(0.05):
            self.peak = max(self.peak, private_gib())


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors"
        write_vectors(path)
        vectors = torch.from_file(str(path), shared=True, size=ROWS * DIM).view(ROWS, DIM)
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
        chosen, rejected = order[: ROWS // 2], order[ROWS // 2 :]
        pairs = Pairs.from_rows(vectors, chosen, rejected, torch.arange(len(chosen)) // 100)
        watch = Watch()
        watch.start()
        begin = time.perf_counter()
        config = FitConfig(rank=3, strength=3e-3, weight_strength=0.0, tolerance=0.05)
        fit = fit_basis(pairs, config, reference=vectors[0])
        seconds = time.perf_counter() - begin
        watch.done.set()
    figures = {
        "seconds": round(seconds, 1),
        "steps": len(fit.history) - 1,
        "optimality": fit.optimality,
        "converged": fit.converged,
    }
    print(json.dumps({"file_gib": round(ROWS * DIM * 4 / 2**30, 2), **figures, "private_gib": round(watch.peak, 2)}))


if __name__ == "__main__":
    main()
