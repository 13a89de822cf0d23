"""Kills `lore train`, `lore embed` and `lore serve` at random moments.

What the first two end with must be the undisturbed result, to the bit; the server must have every choice that it
acknowledged, once, and serve the weights that a new one solves from them.

python benchmarks/soak.py [ROUNDS [EMBEDDING_ROUNDS [SERVER_KILLS]]]
"""

import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import tiny_models
from builders import HashEncoder, small_rows
from lore.data.formats import load_with_issues
from lore.embedding import Embeddings
from lore.runs.config import TrainConfig
from lore.runs.training import train
from lore.serve.client import Client
from serving import Server, Teller

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


def same_store(one: Path, other: Path) -> bool:
    first, second = (Embeddings.load(run / "embeddings", verify=True) for run in (one, other))
    same_keys = bool((first.keys == second.keys).all()) and len(first) == len(set(first.keys.tolist()))
    return same_keys and torch.equal(first.vectors, second.vectors)


def soak_embedding(folder: Path, data: Path, rounds: int, rng: random.Random) -> None:
    """Kill `lore embed` with a tiny model up to three times in a round, then let it end."""
    encoder = tiny_models.save(folder / "model")
    command, whole = ["lore", "embed", str(data), "--encoder", str(encoder), "--out"], folder / "embedded"
    begin = time.perf_counter()
    subprocess.run([*command, str(whole)], check=True, stdout=subprocess.DEVNULL)
    undisturbed = time.perf_counter() - begin
    kills = 0
    for number in range(rounds):
        run = folder / f"embedded-{number}"
        for _ in range(3):
            process = subprocess.Popen([*command, str(run)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                process.wait(rng.uniform(0.4, 1) * undisturbed)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
        if process.returncode:
            subprocess.run([*command, str(run)], check=True, stdout=subprocess.DEVNULL)
        if not same_store(run, whole):
            raise SystemExit(f"round {number}: the resumed store differs from the undisturbed one")
        shutil.rmtree(run)
    found = {"embedding_rounds": rounds, "killed": kills, "seconds_undisturbed": round(undisturbed, 1)}
    print(json.dumps(found), flush=True)


def soak_server(folder: Path, kills: int, rng: random.Random) -> None:
    """Kill a server under load, again and again, on one database."""
    config = TrainConfig(encoder=HashEncoder(), ranks=(1, 2), unseen=0.25)
    run = train(load_with_issues(small_rows(users=24)), folder / "served", config).folder
    database = str(folder / "events.sqlite")
    acknowledged: dict[str, set[str]] = {"ann": set(), "bob": set(), "eve": set()}
    for number in range(kills):
        server = Server(run, database)
        tellers = [Teller(server.url, user, 10_000 * number, threading.Semaphore(0)) for user in acknowledged]
        for teller in tellers:
            teller.start()
        time.sleep(rng.uniform(0, 1))
        server.kill()
        for teller in tellers:
            teller.join()
            acknowledged[teller.user] |= set(teller.acknowledged)
    server = Server(run, database)
    client = Client(server.url)
    kept = {user: [row["comparison_id"] for row in client.export(user)] for user in acknowledged}
    served = {user: client.user(user)["weights"] for user in acknowledged}
    server.end()
    server = Server(run, database)
    rebuilt = {user: Client(server.url).user(user)["weights"] for user in acknowledged}
    server.end()
    for user, ids in acknowledged.items():
        if not ids <= set(kept[user]) or len(kept[user]) != len(set(kept[user])) or len(kept[user]) % 3:
            raise SystemExit(f"{user}: an acknowledged choice is lost, there twice, or a request is torn")
        if max(abs(one - other) for one, other in zip(served[user], rebuilt[user], strict=True)) > 1e-6:
            raise SystemExit(f"{user}: the weights of a new server differ from those that were served")
    found = {"server_kills": kills, "acknowledged": sum(map(len, acknowledged.values()))}
    print(json.dumps(found | {"kept": sum(map(len, kept.values()))}), flush=True)


def main() -> None:
    rounds, rng = int(sys.argv[1]) if len(sys.argv) > 1 else 20, random.Random(0)
    embedding_rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 50
    server_kills = int(sys.argv[3]) if len(sys.argv) > 3 else 200
    with tempfile.TemporaryDirectory() as folder:
        soak_server(Path(folder), server_kills, rng)
        data, whole = Path(folder) / "data.jsonl", Path(folder) / "whole"
        write_rows(data, rng)
        if embedding_rounds:
            soak_embedding(Path(folder), data, embedding_rounds, rng)
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
