"""Fixtures that several rooms use."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import HashEncoder, Write, random_pairs
from lore.pairs.table import Pairs


@pytest.fixture(autouse=True, scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The quicker encoder is the default, and nothing that tests unpack stays on the machine."""
    os.environ["LORE_ENCODER"] = "minilm"
    os.environ["HF_HOME"] = str(tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small problems are faster on one thread, and the same on every machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data_folder() -> Path:
    """The measured data sets; without them the test is skipped."""
    if "LORE_DATA" not in os.environ:
        pytest.skip("LORE_DATA is not set: it names the folder of the public data sets")
    return Path(os.environ["LORE_DATA"])


@pytest.fixture
def letters() -> HashEncoder:
    return HashEncoder()


@pytest.fixture
def planted() -> Pairs:
    return random_pairs()


@pytest.fixture
def jsonl(tmp_path: Path) -> Write:
    """Writes rows, or raw lines, to a file of JSON lines."""

    def write(rows: Sequence[Any]) -> Path:
        path = tmp_path / "data.jsonl"
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


def _as_postgres(command: list[str]) -> list[str]:
    """PostgreSQL does not run as root."""
    return ["runuser", "-u", "postgres", "--", *command] if os.geteuid() == 0 else command


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a real PostgreSQL of its own; without one installed the test is skipped."""
    homes = sorted(Path("/usr/lib/postgresql").glob("*/bin")) if Path("/usr/lib/postgresql").exists() else []
    if not homes:
        pytest.skip("PostgreSQL is not installed")
    folder = Path(tempfile.mkdtemp(prefix="lore-postgres-"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tools, cluster = homes[-1], str(folder / "cluster")
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder}"
    start = [str(tools / "pg_ctl"), "-D", cluster, "-w", "-l", str(folder / "log"), "-o", options, "start"]
    initialize = [str(tools / "initdb"), "-D", cluster, "-U", "lore", "-A", "trust", "-N"]
    for command in (initialize, start):
        subprocess.run(_as_postgres(command), check=True, capture_output=True, cwd="/")
    yield f"postgresql://lore@127.0.0.1:{port}/postgres"
    stop = [str(tools / "pg_ctl"), "-D", cluster, "-w", "-m", "immediate", "stop"]
    subprocess.run(_as_postgres(stop), check=True, capture_output=True, cwd="/")
    shutil.rmtree(folder)
