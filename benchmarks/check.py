"""`lore check` on a million rows: seconds and peak memory of the command, with shared and with distinct responses.

python benchmarks/check.py
"""

import json
import random
import resource
import subprocess
import tempfile
import time
from pathlib import Path

ROWS, PROMPTS, RESPONSES, USERS = 1_000_000, 50_000, 400_000, 20_000


def write_rows(path: Path, distinct: bool) -> None:
    rng = random.Random(0)
    words = [f"word{number}" for number in range(2_000)]
    prompts = [" ".join(rng.choices(words, k=12)) for _ in range(PROMPTS)]
    responses = [" ".join(rng.choices(words, k=25)) for _ in range(RESPONSES)]
    with path.open("w") as file:
        for number in range(ROWS):
            row = {"user_id": f"u{rng.randrange(USERS)}", "prompt": rng.choice(prompts)}
            beginning = f"{number} " if distinct else ""
            row |= {side: beginning + rng.choice(responses) for side in ("chosen", "rejected")}
            file.write(json.dumps(row) + "\n")


def main() -> None:
    for distinct in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "million.jsonl"
            write_rows(path, distinct)
            seconds = []
            for _ in range(3):
                begin = time.perf_counter()
                subprocess.run(["lore", "check", str(path)], check=True, stdout=subprocess.DEVNULL)
                seconds.append(round(time.perf_counter() - begin, 1))
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # of all children so far
        print(json.dumps({"rows": ROWS, "distinct": distinct, "seconds": seconds, "peak_gib": round(peak, 2)}))


if __name__ == "__main__":
    main()
