"""`lore reproduce personalllm` at the paper's size, on simulated embeddings: seconds, memory, and the table.

python benchmarks/personalllm.py FOLDER [lore|original]
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from engine import DIM, HEADS, SEED, embeddings, heads, rotation
from safetensors.torch import save_file

from lore.data.formats.personalllm import MODELS, RESPONSES
from lore.runs.config import ProtocolName
from lore.runs.paper.reproduce import reproduce

PROMPTS = {"train": 9_402, "test": 1_000}


def write(folder: Path) -> None:
    """Rows of the published columns with scores by ten linear heads, and float16 embeddings of length 100."""
    folder.mkdir(parents=True)
    rng = torch.Generator().manual_seed(SEED)
    rotated = rotation(rng)
    directions = None
    for split, prompts in PROMPTS.items():
        vectors = embeddings(prompts * RESPONSES, rng, rotated)
        directions = heads(vectors[:4_096], rng, rotated) if directions is None else directions
        scores = (vectors @ directions).view(prompts, RESPONSES, HEADS)
        tensors = {"embeddings": (100 * vectors).half(), "reference": directions.mean(dim=1)}
        save_file(tensors, folder / f"{split}.safetensors")
        with (folder / f"{split}.jsonl").open("w") as lines:
            for number, own in enumerate(scores.tolist()):
                row = {"prompt": f"{split} {number}"}
                for at, values in enumerate(own, start=1):
                    row[f"response_{at}"] = f"{number} {at}"
                    row |= {f"response_{at}_{model}": value for model, value in zip(MODELS, values, strict=True)}
                lines.write(json.dumps(row) + "\n")


def main() -> None:
    folder = Path(sys.argv[1])
    protocol: ProtocolName = "original" if "original" in sys.argv[2:] else "lore"
    if not folder.exists():
        write(folder)
    begin = time.perf_counter()
    found = reproduce(
        "personalllm", folder / protocol, data=folder, embeddings=folder, protocol=protocol, seed=SEED, force=True
    )
    spent, peak = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"protocol": protocol, "seconds": round(spent), "peak_gib": round(peak, 1), "dim": DIM}))
    print(found.finding.headline)
    for result in found.sweep.results:
        if result.shots is None:
            print(f"{result.model} {result.rank} {result.setting}: {100 * result.accuracy:.1f}")


if __name__ == "__main__":
    main()
