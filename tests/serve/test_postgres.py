import threading
import uuid
from pathlib import Path

import pytest

from lore.serve.client import Client, ServerError
from lore.serve.store.database import Database
from lore.serve.store.events import Accepted, Batch
from serve_builders import TestClient, events, quick_app
from serving import LONG, SHORT, choices


@pytest.fixture
def fresh_postgres(postgres: str) -> str:
    """A database of its own in the cluster."""
    import sqlalchemy as sql

    name = f"test_{uuid.uuid4().hex}"
    engine = sql.create_engine(postgres.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sql.text(f"create database {name}"))
    engine.dispose()
    return postgres.rsplit("/", 1)[0] + f"/{name}"


def test_postgresql_keeps_the_same_promises(run: Path, fresh_postgres: str) -> None:
    with TestClient(quick_app(run, fresh_postgres)) as http:
        client = Client(http=http)
        first = client.feedback("ann", choices(6))
        assert client.feedback("ann", choices(6)) == first
        with pytest.raises(ServerError, match="409"):
            client.feedback("ann", [choices(1)[0] | {"chosen": "island"}])
        served = client.user("ann")["weights"]
    with TestClient(quick_app(run, fresh_postgres)) as http:
        client = Client(http=http)
        assert client.user("ann")["weights"] == pytest.approx(served, abs=1e-6)
        assert client.erase("ann")["events"] == 6
        with pytest.raises(ServerError, match="410"):
            client.feedback("ann", choices(1))


def test_two_servers_on_postgresql_see_each_others_writes(run: Path, fresh_postgres: str) -> None:
    with TestClient(quick_app(run, fresh_postgres)) as one, TestClient(quick_app(run, fresh_postgres)) as two:
        ours, theirs = Client(http=one), Client(http=two)
        for at in range(4):
            version = (ours, theirs)[at % 2].feedback("ann", choices(1, at))["weights_version"]
            other = (theirs, ours)[at % 2].rerank("ann", "q", [LONG, SHORT], min_version=version)
            assert other["weights_version"] == version
        assert ours.user("ann")["weights"] == pytest.approx(theirs.user("ann")["weights"], abs=1e-6)


def test_two_writers_of_one_event_add_it_once(fresh_postgres: str) -> None:
    stores = [Database(fresh_postgres) for _ in range(2)]
    both = threading.Barrier(2)
    added: list[int] = []

    def write(opened: Database) -> None:
        for at in range(30):
            both.wait()
            outcome = opened.store.events.append([Batch("default", events("ann", 2, 2 * at))])[0]
            assert isinstance(outcome, Accepted)
            added.append(outcome.added)

    threads = [threading.Thread(target=write, args=(opened,)) for opened in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(added) == 60
    assert len(stores[0].store.events.of_user("default", "ann")) == 60
    for opened in stores:
        opened.close()


def test_a_database_that_goes_and_comes_back_is_503_meanwhile(run: Path, fresh_postgres: str) -> None:
    import sqlalchemy as sql

    with TestClient(quick_app(run, fresh_postgres)) as http:
        client = Client(http=http)
        client.feedback("ann", choices(1))
        host, name = fresh_postgres.rsplit("/", 1)
        admin = sql.create_engine(
            f"{host}/postgres".replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT"
        )
        with admin.connect() as connection:
            connection.execute(sql.text(f"alter database {name} allow_connections false"))
            connection.execute(
                sql.text("select pg_terminate_backend(pid) from pg_stat_activity where datname = :name"), {"name": name}
            )
            for ask in (lambda: client.feedback("ann", choices(1, 1)), lambda: client.user("ann")):
                with pytest.raises(ServerError) as error:
                    ask()
                assert error.value.status == 503
            connection.execute(sql.text(f"alter database {name} allow_connections true"))
        admin.dispose()
        assert client.feedback("ann", choices(1, 1))["accepted"] == 1
        assert client.user("ann")["comparisons"] == 2
