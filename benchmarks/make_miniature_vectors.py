"""Makes `src/lore/runs/miniature_vectors`: what smollm2 makes of the conversations of the miniature, in half precision.

With them `lore demo` need not read 119,000 tokens. Make them again when the model, its layer or the miniature changes:

    lore download smollm2
    python benchmarks/make_miniature_vectors.py
"""

import shutil
from pathlib import Path

import lore
from lore.embedding import EncoderOptions

RUNS = Path(__file__).parents[1] / "src" / "lore" / "runs"
TARGET = RUNS / "miniature_vectors"


def main() -> None:
    shutil.rmtree(TARGET, ignore_errors=True)
    made = lore.encode(
        lore.load(RUNS / "miniature.parquet"), "smollm2", TARGET, options=EncoderOptions(storage="float16")
    )
    (TARGET / ".lock").unlink()
    print(f"{TARGET}: {len(made):,} vectors of {made.vectors.shape[1]} numbers")


if __name__ == "__main__":
    main()
