"""A server in a process of its own: `python tests/serving.py RUN PORT DATABASE letters|own`, and by which encoder."""

import itertools
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import httpx

from builders import HashEncoder

LONG, SHORT = "apple bread cloud dream eagle flame", "kettle"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """Starts the process, waits until it answers, and ends it as roughly as is asked for."""

    def __init__(self, run: Path, database: str, encoder: str = "letters") -> None:
        self.port = free_port()
        command = [sys.executable, __file__, str(run), str(self.port), database, encoder]
        # A pipe that nobody reads would fill, and stop the server.
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed when the process has ended
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self._log)
        self.url = f"http://127.0.0.1:{self.port}"
        transport = httpx.HTTPTransport(retries=0)
        with httpx.Client(transport=transport, base_url=self.url) as http:
            while self.process.poll() is None:
                try:
                    if http.get("/livez", timeout=5).status_code == 200:
                        return
                except httpx.TransportError:
                    continue
        self._log.seek(0)
        raise RuntimeError(f"the server ended: {self._log.read()}")

    def kill(self) -> None:
        """As a power cut does."""
        self.process.kill()
        self._wait()

    def end(self) -> int:
        """As an operator does; the exit code."""
        self.process.terminate()
        return self._wait()

    def _wait(self) -> int:
        code = self.process.wait(timeout=60)
        self._log.close()
        return code


def choices(count: int, begin: int = 0) -> list[dict[str, Any]]:
    return [
        {"prompt": f"q{at}", "chosen": f"{SHORT} {at}", "rejected": LONG, "event_id": f"e{at}"}
        for at in range(begin, begin + count)
    ]


class Teller(threading.Thread):
    """Sends events until the server is gone, and remembers which were acknowledged."""

    def __init__(self, url: str, user: str, begin: int, counted: threading.Semaphore) -> None:
        super().__init__(daemon=True)
        self.url, self.user, self.begin, self.counted = url, user, begin, counted
        self.acknowledged: dict[str, int] = {}

    def run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as http:
            for at in itertools.count(self.begin, 3):
                rows = [{**row, "event_id": f"{self.user}-{row['event_id']}"} for row in choices(3, at)]
                try:
                    answer = http.post(f"/v1/users/{self.user}/feedback", json={"comparisons": rows})
                except httpx.TransportError:
                    return
                if answer.status_code == 200:
                    version = answer.json()["weights_version"]
                    self.acknowledged |= {row["event_id"]: version for row in rows}
                    self.counted.release()


def main() -> None:
    from lore.serve import app

    encoder = HashEncoder() if sys.argv[4] == "letters" else None
    app.serve(Path(sys.argv[1]), int(sys.argv[2]), database=sys.argv[3], encoder=encoder)


if __name__ == "__main__":
    main()
