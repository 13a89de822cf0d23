from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient as AnyHostClient

from builders import HashEncoder
from lore.serve.app import Application, create_app
from lore.serve.limits import Limits
from lore.serve.store.events import Event
from serving import LONG, SHORT


class TestClient(AnyHostClient):
    """Calls the server as this machine does."""

    __test__ = False

    def __init__(self, app: Any, **settings: Any) -> None:
        super().__init__(app, base_url="http://127.0.0.1", **settings)


def quick_app(run: Path, database: str | Path | None = None, limits: Limits | None = None) -> Any:
    """The application of a run that the encoder of `tests/builders.py` was trained with."""
    return create_app(run, database, limits, HashEncoder())


def quick_application(run: Path, limits: Limits | None = None) -> Application:
    """The same before it is gated."""
    return Application(run, limits=limits, encoder=HashEncoder())


SECRET = "xylophone zebra quartz"


def events(user: str, count: int, begin: int = 0) -> list[Event]:
    return [
        Event(f"{user}-{at}", user, ((), (("assistant", f"{SHORT} {at}"),)), ((), (("assistant", LONG),)))
        for at in range(begin, begin + count)
    ]
