"""A server under load on this machine: rates, latencies and memory, with the load generator on the same processors.

python benchmarks/serve.py RUN [SECONDS]

RUN is a finished run (`lore demo`). Prints one JSON object. Requests go over kept-open connections.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from serving import Server

CONNECTIONS = 16
USERS = 200
Latencies = list[float]


def request(path: str, body: object) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: lore\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    return head.encode() + b"\r\n\r\n" + content


def rerank(number: int) -> bytes:
    documents = [f"answer {at} of the few that are remembered" for at in range(8)]
    return request("/v1/rerank", {"user": f"load-{number % USERS}", "query": "which one?", "documents": documents})


def feedback(number: int) -> bytes:
    rows = [
        {"chosen": f"answer {at % 8} of the few that are remembered", "rejected": "the other answer"}
        for at in range(10)
    ]
    return request(f"/v1/users/load-{number % USERS}/feedback", {"comparisons": rows})


async def answered(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    status, length = head.split(b" ", 2)[1], int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    body = await reader.readexactly(length)
    if status != b"200":
        raise RuntimeError(f"{status.decode()}: {body[:300].decode()}")


async def load(port: int, make: Callable[[int], bytes], seconds: float, rate: float | None = None) -> Latencies:
    """Latencies of requests sent as fast as they are answered, or at a rate, in which case from when each was due."""
    found: Latencies = []
    begin = time.perf_counter()
    sent = 0

    async def connection() -> None:
        nonlocal sent
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (now := time.perf_counter()) < begin + seconds:
            number, sent = sent, sent + 1
            due = now if rate is None else begin + number / rate
            if due > now:
                await asyncio.sleep(due - now)
            writer.write(make(number))
            await answered(reader)
            found.append(time.perf_counter() - due)
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))
    return found


def summary(latencies: Latencies, seconds: float) -> dict[str, float]:
    milliseconds = 1e3 * np.array(latencies)
    return {
        "per_second": round(len(latencies) / seconds, 1),
        "p50_ms": round(float(np.quantile(milliseconds, 0.5)), 2),
        "p99_ms": round(float(np.quantile(milliseconds, 0.99)), 2),
    }


def resident(process: int) -> float:
    """MiB in memory."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def main() -> None:
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 10.0
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(sys.argv[1]), f"{folder}/events.sqlite", encoder="own")
        told = asyncio.run(load(server.port, feedback, seconds))
        found["feedback_in_batches_of_10"] = summary(told, seconds)
        found["events_per_second"] = 10 * found["feedback_in_batches_of_10"]["per_second"]
        asyncio.run(load(server.port, rerank, seconds / 2))
        most = summary(asyncio.run(load(server.port, rerank, seconds)), seconds)
        found["rerank_of_8_cached"] = most
        rate = 0.6 * most["per_second"]
        found["rerank_at_60_percent"] = summary(asyncio.run(load(server.port, rerank, seconds, rate)), seconds)
        before = resident(server.process.pid)
        asyncio.run(load(server.port, rerank, 3 * seconds))
        found["memory_mib_before_and_after"] = [round(before, 1), round(resident(server.process.pid), 1)]
        server.end()
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
