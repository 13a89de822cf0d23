import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis

from builders import HashEncoder, small_rows
from lore.data.formats import load_with_issues
from lore.runs.config import TrainConfig
from lore.runs.training import train
from lore.serve.client import Client
from serve_builders import SECRET, TestClient, quick_app, quick_application


@pytest.fixture(scope="module", params=["simplex", "gaussian"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = small_rows(users=24)
    rows[5] |= {"prompt": f"Say {SECRET}", "chosen": f"{SECRET} one", "rejected": f"{SECRET} two"}
    folder = tmp_path_factory.mktemp("serve") / "run"
    config = TrainConfig(encoder=HashEncoder(), family=request.param, ranks=(1, 2), unseen=0.25)
    return train(load_with_issues(rows), folder, config).folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of its own."""
    subprocess.run(["cp", "-r", trained, tmp_path / "run"], check=True)
    return tmp_path / "run"


@pytest.fixture
def http(run: Path) -> Iterator[TestClient]:
    with TestClient(quick_app(run)) as client:
        yield client


@pytest.fixture
def client(http: TestClient) -> Client:
    return Client(http=http)


@pytest.fixture
def described(run: Path) -> Iterator[Any]:
    own = quick_application(run)
    gate = own.gated()

    async def named(scope: Any, receive: Any, send: Any) -> None:
        """The gate, by the name that it answers to without tokens."""
        headers = [(name, b"127.0.0.1" if name == b"host" else value) for name, value in scope.get("headers", [])]
        await gate({**scope, "headers": headers}, receive, send)

    yield schemathesis.openapi.from_asgi("/openapi.json", named)
    own.close()
