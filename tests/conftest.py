"""What several tests begin with."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lore.embedding import Encoded
from lore.pairs import Pairs
from lore.preferences import text_of


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


class HashEncoder:
    """A quick encoder: counts letters, so that like texts have like vectors."""

    dim = 26

    def __init__(self, name: str = "letters", reference: Tensor | None = None) -> None:
        self.fingerprint: dict[str, str | int] = {"encoder": name}
        self.reference = reference
        self.encoded = 0

    def encode(self, conversations: Sequence[Any]) -> Encoded:
        self.encoded += len(conversations)
        rows = [[text_of(response).lower().count(chr(97 + at)) for at in range(26)] for _, response in conversations]
        vectors = torch.tensor(rows, dtype=torch.float32).view(-1, 26)
        return Encoded.whole(vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1))


@pytest.fixture
def letters() -> HashEncoder:
    return HashEncoder()


def random_pairs(
    users: int = 12, rows: int = 60, dim: int = 6, pairs: int = 240, *, seed: int = 0, polar: bool = False
) -> Pairs:
    """Choices of users with two planted tastes and a common one, some by chance."""
    rng = torch.Generator().manual_seed(seed)
    vectors = torch.randn(rows, dim, generator=rng, dtype=torch.float64)
    heads = torch.randn(dim, 2, generator=rng, dtype=torch.float64) * 2
    weights = torch.rand(users, 2, generator=rng, dtype=torch.float64)
    if polar:
        weights = torch.eye(2, dtype=torch.float64)[torch.arange(users) % 2]
    user = torch.randint(users, (pairs,), generator=rng)
    first, second = torch.randint(rows, (2, pairs), generator=rng)
    second = torch.where(first == second, (second + 1) % rows, second)
    margin = ((vectors[first] - vectors[second]) @ heads * weights[user]).sum(1)
    wins = torch.rand(pairs, generator=rng, dtype=torch.float64) < torch.sigmoid(margin)
    chosen, rejected = torch.where(wins, first, second), torch.where(wins, second, first)
    return Pairs.from_rows(vectors, chosen, rejected, user, users=[f"u{at}" for at in range(users)])


@pytest.fixture
def planted() -> Pairs:
    return random_pairs()


Write = Callable[[Sequence[Any]], Path]


@pytest.fixture
def jsonl(tmp_path: Path) -> Write:
    """Writes rows, or raw lines, to a file of JSON lines."""

    def write(rows: Sequence[Any]) -> Path:
        path = tmp_path / "data.jsonl"
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


WORDS = ("apple", "bread", "cloud", "dream", "eagle", "flame", "grape", "house", "island", "jungle", "kettle", "lemon")


def small_rows(users: int = 6, prompts: int = 12) -> list[dict[str, Any]]:
    """Comparisons in which even users like long responses and odd ones short ones; texts are not alike in form."""
    rows = []
    for user in range(users):
        for prompt in range(prompts):
            longer = " ".join(WORDS[(prompt + step) % len(WORDS)] for step in range(5)) + f" {prompt}"
            shorter = f"{WORDS[(3 * prompt + 1) % len(WORDS)]} {prompt}"
            chosen, rejected = (longer, shorter) if user % 2 == 0 else (shorter, longer)
            rows.append({"user_id": f"u{user}", "prompt": f"Say {prompt}", "chosen": chosen, "rejected": rejected})
    return rows


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
