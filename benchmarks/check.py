"""`lore check` on a million rows: seconds and peak memory of the command.

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


def write_rows(path: Path) -> None:
    rng = random.Random(0)
    words = [f"word{number}" for number in range(2_000)]
    prompts = [" ".join(rng.choices(words, k=12)) for _ in range(PROMPTS)]
    responses = [" ".join(rng.choices(words, k=25)) for _ in range(RESPONSES)]
    with path.open("w") as file:
        for _ in range(ROWS):
            row = {"user_id": f"u{rng.randrange(USERS)}", "prompt": rng.choice(prompts)}
            row |= {"chosen": rng.choice(responses), "rejected": rng.choice(responses)}
            file.write(json.dumps(row) + "\n")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "million.jsonl"
        write_rows(path)
        begin = time.perf_counter()
        subprocess.run(["lore", "check", str(path)], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(json.dumps({"rows": ROWS, "seconds": round(seconds, 1), "peak_gib": round(peak, 2)}))


if __name__ == "__main__":
    main()
