import sqlite3
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders import HashEncoder
from lore.embedding.encoder import Encoded
from lore.errors import StoreError
from lore.serve.app import create_app
from lore.serve.client import Client, ServerError
from lore.serve.store.database import Database
from lore.serve.store.events import Accepted, Batch, Erased
from lore.serve.vectors import Vectors
from serve_builders import TestClient, events
from serving import choices


class Broken(HashEncoder):
    """An encoder whose worker has died, or that gives nonsense."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def encode(self, conversations: Any) -> Encoded:
        found = super().encode(conversations)
        if self.how == "dies":
            raise RuntimeError("killed")
        return replace(found, vectors=found.vectors * float("nan"))


@pytest.mark.parametrize("how", ["dies", "nonsense"])
def test_an_encoder_that_fails_is_503_and_not_a_score(run: Path, how: str) -> None:
    broken = Broken(how)
    with TestClient(create_app(run, encoder=broken)) as http:
        client = Client(http=http)
        for ask in (lambda: client.rerank(None, "q", ["new"]), lambda: client.feedback("ann", choices(1))):
            with pytest.raises(ServerError) as error:
                ask()
            assert error.value.status == 503
        broken.how = "dies not"
        assert client.user("ann")["comparisons"] == 0
        assert client.user("u0")["personalized"]  # what is known already needs no encoder


def test_texts_that_arrive_together_are_encoded_together_and_remembered() -> None:
    gate, calls = threading.Event(), []

    class Counting(HashEncoder):
        def encode(self, conversations: Any) -> Encoded:
            calls.append(len(conversations))
            if len(calls) == 1:
                gate.wait()
            return super().encode(conversations)

    vectors = Vectors(Counting(), lambda _: {})
    said = [((), (("assistant", f"text {at}"),)) for at in range(9)]
    threads = [threading.Thread(target=vectors.of, args=([one],)) for one in said]
    threads[0].start()
    while not calls:
        threads[0].join(0.001)
    for thread in threads[1:]:
        thread.start()
    while vectors._thread._waiting.qsize() < 8:
        threads[-1].join(0.001)
    gate.set()
    for thread in threads:
        thread.join()
    assert calls == [1, 8]
    assert len(vectors.of(said)) == 9
    assert calls == [1, 8]
    vectors.close()


def test_a_second_server_on_one_file_is_refused(tmp_path: Path) -> None:
    first = Database(str(tmp_path / "e.sqlite"))
    with pytest.raises(StoreError, match="another server"):
        Database(str(tmp_path / "e.sqlite"))
    first.close()
    Database(str(tmp_path / "e.sqlite")).close()


def test_a_database_of_a_newer_version_or_another_encoder_is_refused(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite"
    Database(str(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("update alembic_version set version_num = '9999'")
    connection.close()
    with pytest.raises(StoreError, match="newer version"):
        Database(str(path))
    other = Database(str(tmp_path / "f.sqlite"))
    other.store.settings.get_or_set("encoder", '{"encoder": "another"}')
    other.close()
    with pytest.raises(StoreError, match="another encoder"):
        create_app(run, tmp_path / "f.sqlite", encoder=HashEncoder())


def test_what_is_no_database_or_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database, " * 100)
    for url in (str(tmp_path / "text"), str(tmp_path), "postgresql://nobody@127.0.0.1:9/none"):
        with pytest.raises(StoreError, match="cannot be opened"):
            Database(url)


def test_a_full_or_read_only_database_acknowledges_nothing(client: Client, run: Path) -> None:
    client.feedback("ann", choices(1))
    with sqlite3.connect(run / "feedback.sqlite") as connection:
        connection.execute("create trigger full before insert on events begin select raise(abort, 'disk full'); end")
    connection.close()
    with pytest.raises(ServerError) as error:
        client.feedback("ann", choices(1, 1))
    assert error.value.status == 503
    assert client.user("ann")["comparisons"] == 1
    with sqlite3.connect(run / "feedback.sqlite") as connection:
        connection.execute("drop trigger full")
    connection.close()
    assert client.feedback("ann", choices(1, 1))["accepted"] == 1  # and goes on when there is room again


def test_a_clock_that_is_set_back_changes_no_order(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    first = client.feedback("ann", choices(1))["weights_version"]
    monkeypatch.setattr("lore.serve.store.events.time.time", lambda: 0.0)
    assert client.feedback("ann", choices(1, 1))["weights_version"] > first
    assert [row["comparison_id"] for row in client.export("ann")] == ["e0", "e1"]


def test_gone_people_are_told_apart_by_tenant(tmp_path: Path) -> None:
    opened = Database(str(tmp_path / "e.sqlite"))
    opened.store.events.erase("one", "ann")
    outcomes = opened.store.events.append([Batch("one", events("ann", 1)), Batch("two", events("ann", 1))])
    assert outcomes[0] == Erased("ann")
    assert isinstance(outcomes[1], Accepted)
    opened.close()
