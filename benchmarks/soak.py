"""Kills `lore train` at random moments, again and again, until it gets through; the result must be the undisturbed one.

python benchmarks/soak.py [ROUNDS]
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = [f"word{number}" for number in range(300)]


def write_rows(path: Path, rng: random.Random) -> None:
    texts = [" ".join(rng.choices(WORDS, k=20)) for _ in range(3_000)]
    rows = [
        {"user_id": f"u{rng.randrange(40)}", "prompt": f"p{at % 400}", "chosen": texts[at], "rejected": texts[-at - 1]}
        for at in range(1_500)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))


def results(run: Path) -> object:
    return json.loads((run / "report.json").read_text())["results"]


def main() -> None:
    rounds, rng = int(sys.argv[1]) if len(sys.argv) > 1 else 20, random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        data, whole = Path(folder) / "data.jsonl", Path(folder) / "whole"
        write_rows(data, rng)
        command = ["lore", "train", str(data), "--ranks", "1,2", "--out"]
        begin = time.perf_counter()
        subprocess.run([*command, str(whole)], check=True, stdout=subprocess.DEVNULL)
        undisturbed = time.perf_counter() - begin
        kills = 0
        for number in range(rounds):
            run = Path(folder) / f"run-{number}"
            process = subprocess.Popen([*command, str(run)], stdout=subprocess.DEVNULL)
            try:
                process.wait(rng.uniform(0, undisturbed))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                subprocess.run([*command, str(run)], check=True, stdout=subprocess.DEVNULL)
            if results(run) != results(whole):
                raise SystemExit(f"round {number}: the resumed run differs from the undisturbed one")
    print(json.dumps({"rounds": rounds, "killed": kills, "seconds_undisturbed": round(undisturbed, 1)}))


if __name__ == "__main__":
    main()
