import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lore.serve.client import Client, ServerError, UnreachableError
from lore.serve.store.database import Database
from lore.serve.store.events import Accepted, Batch, Conflict
from lore.serve.writer import Writer
from serve_builders import TestClient, events, quick_app
from serving import LONG, SHORT, Server, Teller, choices

ENDED = (0, -15)  # uvicorn finishes its work and then ends by the signal


def test_an_event_sent_again_is_answered_the_same_and_counted_once(client: Client, http: TestClient) -> None:
    first = client.feedback("ann", choices(4))
    assert client.feedback("ann", choices(4)) == first
    assert client.feedback("ann", choices(2))["weights_version"] == first["weights_version"] - 2
    assert client.user("ann")["comparisons"] == 4
    with pytest.raises(ServerError) as conflict:
        client.feedback("ann", [choices(1, 9)[0], choices(1)[0] | {"chosen": "island"}])
    assert conflict.value.status == 409
    assert client.user("ann")["comparisons"] == 4  # nothing of it was added
    twice = choices(1, 20) * 2
    assert client.feedback("ann", twice)["accepted"] == 2
    assert client.user("ann")["comparisons"] == 5
    with pytest.raises(ServerError) as within:
        client.feedback("ann", [choices(1, 30)[0], choices(1, 30)[0] | {"rejected": "island"}])
    assert within.value.status == 409
    with pytest.raises(ServerError) as other:
        client.feedback("bob", choices(1))  # ann's event_id
    assert other.value.status == 409
    body = {"comparisons": [{"chosen": SHORT, "rejected": LONG}]}
    answers = [
        http.post("/v1/users/eve/feedback", json=body, headers={"Idempotency-Key": "once"}).json() for _ in range(3)
    ]
    assert answers[0] == answers[1] == answers[2]
    assert client.user("eve")["comparisons"] == 1


def test_a_rerank_may_ask_for_weights_as_new_as_what_was_written(client: Client) -> None:
    version = client.feedback("ann", choices(2))["weights_version"]
    assert client.rerank("ann", "q", [LONG, SHORT], min_version=version)["weights_version"] == version
    with pytest.raises(ServerError) as unknown:
        client.rerank("ann", "q", [LONG, SHORT], min_version=version + 1)
    assert unknown.value.status == 409


def test_a_server_that_is_not_there_is_said_to_be_so() -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(UnreachableError, match="is `lore serve RUN` running"):
        client.user("ann")


@pytest.mark.parametrize("trained", ["gaussian"], indirect=True)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_was_acknowledged_survives_kill_9_once_and_whole(run: Path, tmp_path: Path) -> None:
    database = str(tmp_path / "events.sqlite")
    acknowledged: dict[str, dict[str, int]] = {"ann": {}, "bob": {}}
    begin = 0
    for requests in (1, 4, 9, 16, 30):
        server = Server(run, database)
        counted = threading.Semaphore(0)
        tellers = [Teller(server.url, user, begin, counted) for user in acknowledged]
        for teller in tellers:
            teller.start()
        for _ in range(requests):
            counted.acquire()
        server.kill()
        for teller in tellers:
            teller.join()
            acknowledged[teller.user] |= teller.acknowledged
        begin += 1_000
    server = Server(run, database)
    with Client(server.url) as client:
        opened = {user: client.export(user) for user in acknowledged}
        served = {user: client.user(user)["weights"] for user in acknowledged}
    assert server.end() in ENDED
    for user, known in acknowledged.items():
        ids = [row["comparison_id"] for row in opened[user]]
        assert len(ids) == len(set(ids))
        assert set(known) <= set(ids)
        # The three events of a request are there together or not at all.
        assert len(ids) % 3 == 0
    with TestClient(quick_app(run, database)) as http:
        rebuilt = Client(http=http)
        for user in acknowledged:
            assert rebuilt.user(user)["weights"] == pytest.approx(served[user], abs=1e-6)


@pytest.mark.parametrize("trained", ["simplex"], indirect=True)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_sigterm_under_load_loses_nothing_that_was_acknowledged(run: Path, tmp_path: Path) -> None:
    database = str(tmp_path / "events.sqlite")
    server = Server(run, database)
    counted = threading.Semaphore(0)
    teller = Teller(server.url, "ann", 0, counted)
    teller.start()
    for _ in range(5):
        counted.acquire()
    assert server.end() in ENDED
    teller.join()
    opened = Database(database)
    kept = {event.event_id for event in opened.store.events.of_user("default", "ann")}
    opened.close()
    assert set(teller.acknowledged) <= kept


def test_many_requests_share_a_commit_and_each_gets_its_own_answer(tmp_path: Path) -> None:
    opened = Database(str(tmp_path / "events.sqlite"))
    commits = []
    append = opened.store.events.append

    def slow(batches: Any, vectors: Any) -> Any:
        commits.append(len(batches))
        if len(commits) == 1:
            gate.wait()
        return append(batches, vectors)

    gate = threading.Event()
    opened.store.events.append = slow  # type: ignore[method-assign]
    writer = Writer(opened.store.events)
    bad = [replace(events("ann", 1)[0], label=0.25)]
    batches = [events("ann", 1), *(events("ann", 1, at) for at in range(1, 9)), bad]
    answers: list[Any] = [None] * len(batches)

    def send(at: int) -> None:
        answers[at] = writer.append(Batch("default", batches[at]), {})

    threads = [threading.Thread(target=send, args=(at,)) for at in range(len(batches))]
    threads[0].start()
    while not commits:
        threads[0].join(0.001)
    for thread in threads[1:]:
        thread.start()
    while writer._thread._waiting.qsize() < len(batches) - 1:
        threads[-1].join(0.001)
    gate.set()
    for thread in threads:
        thread.join()
    writer.close()
    assert commits == [1, len(batches) - 1]
    assert all(isinstance(answer, Accepted) and answer.added == 1 for answer in answers[:-1])
    assert answers[-1] == Conflict("ann-0")
    opened.close()
