from typing import Any

from fastapi.testclient import TestClient as AnyHostClient

from lore.serve.store.events import Event
from serving import LONG, SHORT


class TestClient(AnyHostClient):
    """Calls the server as this machine does."""

    __test__ = False

    def __init__(self, app: Any, **settings: Any) -> None:
        super().__init__(app, base_url="http://127.0.0.1", **settings)


SECRET = "xylophone zebra quartz"


def events(user: str, count: int, begin: int = 0) -> list[Event]:
    return [
        Event(f"{user}-{at}", user, ((), (("assistant", f"{SHORT} {at}"),)), ((), (("assistant", LONG),)))
        for at in range(begin, begin + count)
    ]
