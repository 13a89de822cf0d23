import json
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import HashEncoder
from lore.data.formats import load
from lore.embedding import Embeddings
from lore.files import read_json
from lore.runs.artifacts import Run, save_users
from lore.runs.steps import personalize_step
from lore.serve import erasure
from lore.serve.client import Client, ServerError
from lore.serve.erasure import erase_from_run
from lore.serve.service import TENANT, Service
from lore.serve.store.database import Database
from lore.serve.store.events import Batch, Erased
from serve_builders import SECRET, TestClient, events, quick_app
from serving import LONG, SHORT, choices

WORDS = "Meet me at the old mill"  # in nothing that the run was trained on


def holds(folder: Path, needle: str) -> list[str]:
    """Files in which a text is found, those of Parquet by what they hold."""
    found = []
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content = json.dumps([str(row) for row in load(path).conversation_keys()]).encode()
            table = load(path)
            content += json.dumps([table.users, table.prompts, table.responses]).encode()
        if needle.encode() in content:
            found.append(path.name)
    return found


def test_what_a_user_added_is_erased_with_the_rest(run: Path) -> None:
    rows = [{"user_id": user, "prompt": "p", "chosen": f"{WORDS} {user}", "rejected": LONG} for user in ("u1", "added")]
    kept = {"user_id": "other", "prompt": "p", "chosen": SHORT, "rejected": LONG}
    personalize_step(run, load([*rows, kept]), encoder=HashEncoder())
    (run / "users.csv").write_text("user,gain\nu1,0.1\n")
    assert holds(run, WORDS) == ["added.parquet"]
    with TestClient(quick_app(run)) as http:
        client = Client(http=http)
        assert client.erase("added")["run"]
        assert client.erase("u1")["run"]
    assert holds(run, WORDS) == []
    assert not (run / "users.csv").exists()
    assert load(run / "added.parquet").users == ["other"]
    tables = [load(run / name) for name in ("preferences.parquet", "added.parquet")]
    stored = Embeddings.load(run / "embeddings", verify=True).keys
    assert {bytes(key) for key in stored} == {key for table in tables for key in table.conversation_keys()}


def test_an_erased_person_is_nowhere_and_does_not_come_back(run: Path) -> None:
    split = read_json(run / "split.json")
    own = next(user for user in ("u0",) if user in split["seen_users"] + split["unseen_users"])
    with TestClient(quick_app(run)) as http:
        client = Client(http=http)
        private = [{"prompt": "p", "chosen": f"{SECRET} {at}", "rejected": LONG} for at in range(3)]
        client.feedback(own, private)
        client.feedback("other", [{"prompt": "p", "chosen": SHORT, "rejected": LONG}])
        others = client.user("other")
        exported = client.export(own)
        assert len(exported) == 15
        receipt = client.erase(own)
        assert receipt["events"] == 15
        assert receipt["run"]
        assert receipt["vectors"] >= 3
        assert client.export(own) == []
        assert not client.user(own)["personalized"]
        with pytest.raises(ServerError) as late:
            client.feedback(own, private)
        assert late.value.status == 410
        with pytest.raises(ServerError) as never:
            client.rerank(own, "q", [LONG], min_version=1)
        assert never.value.status == 410
        again = client.erase(own)
        assert (again["receipt"], again["events"]) == (receipt["receipt"], 0)
        assert client.user("other")["weights"] == others["weights"]
        assert holds(run, SECRET) == []
    table, store = load(run / "preferences.parquet"), Embeddings.load(run / "embeddings", verify=True)
    assert sorted(bytes(key) for key in store.keys) == sorted(table.conversation_keys())
    after = read_json(run / "split.json")
    assert own not in after["seen_users"] + after["unseen_users"]
    assert own not in Run.load(run).users
    with TestClient(quick_app(run)) as http:  # and is not brought back by the run's own comparisons
        client = Client(http=http)
        assert client.export(own) == []
        assert client.user("u1")["personalized"]
    from lore.runs.steps import evaluate_step

    assert evaluate_step(run)["seen_test"].users >= 1  # the run is whole without them


def test_each_of_several_erasures_stays_done_and_weights_without_rows_go_too(run: Path) -> None:
    ids = read_json(run / "users" / "ids.json")["ids"]
    weights = Run.load(run).weights
    save_users(run / "users", [*ids, "personalized later"], torch.cat([weights, weights[:1]]))
    with TestClient(quick_app(run)) as http:
        client = Client(http=http)
        assert all(client.erase(user)["run"] for user in ("u2", "u3", "personalized later"))
        assert not client.erase("u2")["run"]
        client.feedback("ann", choices(1))
    assert not {"u2", "u3", "personalized later"} & set(Run.load(run).users)
    table = load(run / "preferences.parquet")
    assert not {"u2", "u3"} & set(table.users)
    assert len(Run.load(run).users) == len(ids) - 2


def test_an_erasure_that_was_cut_short_is_finished_when_asked_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with TestClient(quick_app(run)) as http:
        client = Client(http=http)

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(erasure, "save_table", full)
            with pytest.raises(ServerError, match="try again") as caught:
                client.erase("u4")
            assert caught.value.status == 503
        assert client.erase("u4")["run"]
    split = read_json(run / "split.json")
    table = load(run / "preferences.parquet")
    assert split["data"] == table.fingerprint()
    kept = [row for rows in split["comparisons"].values() if rows is not None for row in rows]
    assert max(kept) < len(table)
    assert "u4" not in table.users


def test_what_others_chose_between_keeps_its_vectors(run: Path) -> None:
    with TestClient(quick_app(run)) as http:
        client = Client(http=http)
        export = client.export("u0")[0]
        shared = {side: export[side] for side in ("prompt", "chosen", "rejected")}
        client.feedback("ann", [shared])
        client.erase("u0")
        assert client.user("ann")["comparisons"] == 1
    with TestClient(quick_app(run)) as http:
        assert Client(http=http).user("ann")["personalized"]
        assert http.get("/v1/overview").status_code == 200


def test_a_question_under_way_is_of_the_table_that_it_began_with(run: Path, tmp_path: Path) -> None:
    opened = Database(str(tmp_path / "events.sqlite"))
    service = Service(Run.load(run), HashEncoder(), opened.store)
    pool = service.pool
    before = [pool.conversation(row) for row in range(len(pool.vectors))]
    assert erase_from_run(service, TENANT, "u0")
    assert [pool.conversation(row) for row in range(len(pool.vectors))] == before
    late, service._pool = service.pool, pool  # as of a thread that read the table before, and wrote after
    assert service.pool.preferences is late.preferences is service.preferences
    assert "u0" not in service.pool.preferences.users
    for row, key in enumerate(late.preferences.conversation_keys()):
        assert torch.equal(late.vectors[row], pool.vectors[pool.numbers[key]])
        assert late.conversation(row) == pool.conversation(pool.numbers[key])
    service.close()
    opened.close()


def test_a_refused_batch_leaves_no_vector(tmp_path: Path) -> None:
    opened = Database(str(tmp_path / "events.sqlite"))
    opened.store.events.erase("default", "ann")
    batches = [Batch("default", events("ann", 1)), Batch("default", events("bob", 1, 5))]
    vectors = {key: b"1234" for batch in batches for event in batch.events for key in event.keys}
    assert isinstance(opened.store.events.append(batches, vectors)[0], Erased)
    theirs = {key for event in batches[1].events for key in event.keys}
    assert set(opened.store.vectors.get(vectors)) == theirs
    assert opened.store.events.in_use(vectors) == theirs
    opened.close()
