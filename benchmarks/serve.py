"""A server under load on this machine: rates, latencies and memory, with the load generator on the same processors.

python benchmarks/serve.py RUN [SECONDS [USERS]]

RUN is a finished run (`lore demo`), SECONDS the length of a measurement, USERS how many are in the store for the last
one (a million). Prints one JSON object. Requests go over kept-open connections to 127.0.0.1.
"""

import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from lore.serve.store.database import Database
from lore.serve.store.events import Batch, Event
from serving import Server

CONNECTIONS = 16
FEW = 4  # connections that keep a server busy, and do not queue
MANY = 64  # connections of an overload
USERS = 200
REMEMBERED = [f"answer {at} of the few that are remembered" for at in range(8)]
OTHER = "the other answer"


@dataclass
class Load:
    """What was answered in some seconds, and how fast."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    refused: int = 0

    def summary(self) -> dict[str, float]:
        """Rates and quantiles."""
        milliseconds = 1e3 * np.array(self.latencies)
        return {
            "per_second": round(len(self.latencies) / self.seconds, 1),
            "refused_per_second": round(self.refused / self.seconds, 1),
            "p50_ms": round(float(np.quantile(milliseconds, 0.5)), 2),
            "p99_ms": round(float(np.quantile(milliseconds, 0.99)), 2),
        }


def request(path: str, body: object) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    )
    return head.encode() + b"\r\n\r\n" + content


def rerank(number: int) -> bytes:
    return request("/v1/rerank", {"user": f"load-{number % USERS}", "query": "which one?", "documents": REMEMBERED})


def feedback(number: int) -> bytes:
    rows = [{"chosen": REMEMBERED[at % 8], "rejected": OTHER} for at in range(10)]
    return request(f"/v1/users/load-{number % USERS}/feedback", {"comparisons": rows})


async def answered(reader: asyncio.StreamReader) -> bool:
    """Whether a request was answered, or turned away."""
    head = await reader.readuntil(b"\r\n\r\n")
    status, length = head.split(b" ", 2)[1], int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    body = await reader.readexactly(length)
    if status not in (b"200", b"503"):
        raise RuntimeError(f"{status.decode()}: {body[:300].decode()}")
    return status == b"200"


async def load(
    port: int,
    make: Callable[[int], bytes],
    seconds: float,
    *,
    rate: float | None = None,
    connections: int = CONNECTIONS,
) -> Load:
    """Requests as fast as they are answered, or at a rate, in which case latencies are from when each was due."""
    found = Load(seconds)
    begin = time.perf_counter()
    numbers = itertools.count()

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (now := time.perf_counter()) < begin + seconds:
            number = next(numbers)
            due = now if rate is None else begin + number / rate
            if due > now:
                await asyncio.sleep(due - now)
            # Where more is sent than can be, the generator itself is late: then it is counted from when it was sent.
            sent = due if connections < MANY else time.perf_counter()
            writer.write(make(number))
            if await answered(reader):
                found.latencies.append(time.perf_counter() - sent)
            else:
                found.refused += 1
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(connection() for _ in range(connections)))
    return found


def resident(process: int) -> float:
    """MiB in memory."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def measured(port: int, make: Callable[[int], bytes], seconds: float, **how: float) -> dict[str, float]:
    return asyncio.run(load(port, make, seconds, **how)).summary()  # type: ignore[arg-type]


def new_users(users: int) -> Iterator[Event]:
    for at in range(users):
        sides = [((), (("assistant", text),)) for text in (REMEMBERED[at % 8], OTHER)]
        yield Event(f"crowd-{at}", f"crowd-{at}", sides[0], sides[1])


def crowd(database: str, users: int) -> float:
    """Fill a store; events a second."""
    begin, opened = time.perf_counter(), Database(database)
    events = new_users(users)
    while some := list(itertools.islice(events, 5_000)):
        opened.store.events.append([Batch("default", some)])
    opened.close()
    return users / (time.perf_counter() - begin)


def main() -> None:
    run = Path(sys.argv[1])
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 10.0
    users = int(sys.argv[3]) if len(sys.argv) > 3 else 1_000_000
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        database = f"{folder}/events.sqlite"
        server = Server(run, database, encoder="own")
        port = server.port
        told = measured(port, feedback, seconds)
        found |= {"feedback_in_batches_of_10": told, "events_per_second": 10 * told["per_second"]}
        measured(port, rerank, seconds / 2, connections=FEW)
        most = measured(port, rerank, seconds, connections=FEW)
        rate = most["per_second"]
        found["rerank_of_8_cached"] = most
        found["rerank_at_10_percent"] = measured(port, rerank, seconds, rate=0.1 * rate)
        found["rerank_at_60_percent"] = measured(port, rerank, seconds, rate=0.6 * rate)
        found["rerank_at_200_percent"] = measured(port, rerank, 3 * seconds, rate=2 * rate, connections=MANY)
        measured(port, rerank, seconds / 2, connections=FEW)
        before, answered_between = resident(server.process.pid), 0
        while answered_between < 100_000:
            answered_between += len(asyncio.run(load(port, rerank, seconds, connections=FEW)).latencies)
        found["memory_mib_before_and_after"] = [round(before, 1), round(resident(server.process.pid), 1)]
        found["requests_between"] = answered_between
        server.end()
        found["filled_per_second"] = round(crowd(database, users))
        server = Server(run, database, encoder="own")
        measured(server.port, rerank, seconds, connections=FEW)
        found[f"rerank_at_60_percent_with_{users}_users"] = measured(server.port, rerank, seconds, rate=0.6 * rate)
        server.end()
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
