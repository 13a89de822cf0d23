"""The server's promises, one after the other."""

import asyncio
import json
import math
import sqlite3
import subprocess
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import torch
from fastapi.testclient import TestClient as AnyHostClient
from hypothesis import HealthCheck, given, settings
from typer.testing import CliRunner

from conftest import HashEncoder, small_rows
from lore import cli
from lore.basis import RewardBasis
from lore.embedding import Embeddings
from lore.embedding.encoded import Encoded
from lore.errors import ConfigError, StoreError
from lore.files import read_json
from lore.pairs import Pairs
from lore.personalize import fit_weights
from lore.preferences import Preferences
from lore.run import Run, save_users
from lore.serve.app import Application, create_app
from lore.serve.client import Client, ServerError, UnreachableError
from lore.serve.database import Database
from lore.serve.erasure import erase_from_run
from lore.serve.hindsight import pairs_of_events
from lore.serve.limits import Buckets, Limits
from lore.serve.service import TENANT, Service
from lore.serve.tokens import change_tokens
from lore.serve.vectors import Vectors
from lore.serve.writer import Writer
from lore.sources import load, read
from lore.train import TrainConfig, train
from lore.users import Accepted, Batch, Conflict, Event, Gone
from serving import LONG, SHORT, Server, Teller, choices


class TestClient(AnyHostClient):
    """Calls the server as this machine does."""

    __test__ = False

    def __init__(self, app: Any, **settings: Any) -> None:
        super().__init__(app, base_url="http://127.0.0.1", **settings)


ENDED = (0, -15)  # uvicorn finishes its work and then ends by the signal
SECRET = "xylophone zebra quartz"


@pytest.fixture(scope="module", params=["simplex", "gaussian"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lore.embedding.store.load_encoder", lambda *_: HashEncoder())
        rows = small_rows(users=24)
        rows[5] |= {"prompt": f"Say {SECRET}", "chosen": f"{SECRET} one", "rejected": f"{SECRET} two"}
        folder = tmp_path_factory.mktemp("serve") / "run"
        config = TrainConfig(family=request.param, ranks=(1, 2), unseen=0.25)
        return train(read(rows), folder, config).folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of its own, and no model to load."""
    monkeypatch.setattr("lore.serve.app.load_encoder", lambda *_: HashEncoder())
    subprocess.run(["cp", "-r", trained, tmp_path / "run"], check=True)
    return tmp_path / "run"


@pytest.fixture
def http(run: Path) -> Iterator[TestClient]:
    with TestClient(create_app(run)) as client:
        yield client


@pytest.fixture
def client(http: TestClient) -> Client:
    return Client(http=http)


def events(user: str, count: int, begin: int = 0) -> list[Event]:
    return [
        Event(f"{user}-{at}", user, ((), (("assistant", f"{SHORT} {at}"),)), ((), (("assistant", LONG),)))
        for at in range(begin, begin + count)
    ]


# --- people and their weights -------------------------------------------------------------------------------------


def test_the_server_begins_with_what_the_run_knows(client: Client, run: Path) -> None:
    found = Run.load(run)
    for user in ("u0", "u5", "u23"):
        known = client.user(user)
        assert known["personalized"]
        assert known["comparisons"] == 12
        assert known["weights"] == pytest.approx(found.weights_of(user).tolist(), abs=1e-5)
    stranger = client.user("nobody")
    assert (stranger["personalized"], stranger["comparisons"], stranger["weights_version"]) == (False, 0, 0)
    assert stranger["weights"] == pytest.approx(found.basis.population.tolist())


def test_weights_after_any_events_are_those_of_one_fit_on_all_of_them(client: Client, run: Path) -> None:
    basis = Run.load(run).basis
    sent: list[dict[str, Any]] = []
    for size in (1, 3, 1, 7):
        more = choices(size, len(sent))
        more[0]["weight"] = 0.5
        sent += more
        version = client.feedback("ann", more)["weights_version"]
        assert client.user("ann")["weights_version"] == version
    texts = list(dict.fromkeys((row["prompt"], row[side]) for row in sent for side in ("chosen", "rejected")))
    encoder = HashEncoder()
    vectors = encoder.encode([((("user", prompt),), (("assistant", text),)) for prompt, text in texts]).vectors
    place = {said: at for at, said in enumerate(texts)}
    chosen, rejected = (
        torch.tensor([place[row["prompt"], row[side]] for row in sent]) for side in ("chosen", "rejected")
    )
    weight = torch.tensor([row.get("weight", 1.0) for row in sent])
    pairs = Pairs.from_rows(vectors, chosen, rejected, torch.zeros(len(sent), dtype=torch.long), weight=weight)
    expected = fit_weights(pairs, basis).weights[0]
    assert client.user("ann")["weights"] == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_taste_is_learned_and_explained_and_strangers_get_the_population(client: Client) -> None:
    before = client.rerank("ann", "q", [LONG, SHORT])
    assert not before["personalized"]
    client.feedback("ann", choices(12))
    after = client.rerank("ann", "q", [LONG, SHORT])
    assert after["personalized"]
    assert after["results"][0]["index"] == 1
    rewards = client.score("ann", "q", [LONG, SHORT])
    assert rewards[1] > rewards[0]
    scores = [result["relevance_score"] for result in after["results"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    likes = client.user("ann")["likes"]
    assert likes
    assert all(direction["strength"] >= 0 and direction["more"] for direction in likes)


def test_the_shapes_of_cohere_and_jina_are_taken(http: TestClient) -> None:
    body = {"model": "rerank-v3.5", "query": "q", "documents": [{"text": LONG}, SHORT], "top_n": 1}
    for path in ("/v1/rerank", "/v2/rerank"):
        found = http.post(path, json=body | {"return_documents": True}).json()
        assert len(found["results"]) == 1
        only = found["results"][0]
        assert only["document"]["text"] == (LONG, SHORT)[only["index"]]
        assert found["id"]
        assert found["meta"]


def test_openrlhf_gets_a_reward_a_text(http: TestClient, client: Client) -> None:
    client.feedback("ann", choices(12))
    body = {"query": [f"q {LONG}", f"q {SHORT}"], "prompts": ["q ", "q "], "labels": ["ann", "ann"]}
    rewards = http.post("/get_reward", json=body).json()["rewards"]
    assert rewards == pytest.approx(client.score("ann", "q ", [LONG, SHORT]))


def test_questions_are_asked_among_what_is_given_or_what_the_run_has(client: Client) -> None:
    given = client.next("ann", "q", [LONG, SHORT, "island", LONG])
    assert set(given["responses"]) <= {LONG, SHORT, "island"}
    asked = client.next("u3")
    assert asked["prompts"][0] == asked["prompts"][1]
    assert asked["responses"][0] != asked["responses"][1]
    assert 0 <= asked["left"] <= 20
    assert asked["stop"] == (asked["left"] == 0)
    client.feedback("ann", choices(12))
    assert client.next("ann", "q", [f"{SHORT} 1", f"{SHORT} 2"])["left"] == 0  # long known, or told apart by nothing
    with pytest.raises(ServerError, match="two different"):
        client.next("ann", "q", [LONG, LONG])


# --- durable, once, and read as written ---------------------------------------------------------------------------


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
    with TestClient(create_app(run, database)) as http:
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
    kept = {event.event_id for event in opened.store.events("default", "ann")}
    opened.close()
    assert set(teller.acknowledged) <= kept


def test_many_requests_share_a_commit_and_each_gets_its_own_answer(tmp_path: Path) -> None:
    opened = Database(str(tmp_path / "events.sqlite"))
    commits = []
    append = opened.store.append

    def slow(batches: Any, vectors: Any) -> Any:
        commits.append(len(batches))
        if len(commits) == 1:
            gate.wait()
        return append(batches, vectors)

    gate = threading.Event()
    opened.store.append = slow  # type: ignore[method-assign]
    writer = Writer(opened.store)
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
    while writer._waiting.qsize() < len(batches) - 1:
        threads[-1].join(0.001)
    gate.set()
    for thread in threads:
        thread.join()
    writer.close()
    assert commits == [1, len(batches) - 1]
    assert all(isinstance(answer, Accepted) and answer.added == 1 for answer in answers[:-1])
    assert answers[-1] == Conflict("ann-0")
    opened.close()


# --- the life of models -------------------------------------------------------------------------------------------


@pytest.fixture
def better(run: Path, tmp_path: Path) -> Path:
    """A run of the same encoder whose people like short answers more than the served run's do."""
    basis = Run.load(run).basis
    pull = torch.zeros(basis.dim)
    pull[:] = -5.0  # fewer letters
    center = basis.center + pull if basis.family == "gaussian" else basis.center
    vectors = basis.vectors if basis.family == "gaussian" else basis.vectors + pull[:, None]
    replace(basis, center=center, vectors=vectors).save(tmp_path / "better" / "model")
    return tmp_path / "better"


def lore(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_a_new_model_is_served_beside_compared_taken_and_given_back(run: Path, better: Path) -> None:
    application = Application(run)
    with TestClient(application.gated()) as http:
        client = Client(http=http)
        client.feedback("ann", choices(4))
        old = client.user("ann")
        assert lore("model", run).output.strip().endswith("answers")
        new = lore("model", run, "--add", better).output.split()[0]
        assert client.user("ann") == old
        beside = client.rerank("ann", "q", [LONG, SHORT], model_version=new)
        assert beside["model_version"] == new
        assert client.rerank("ann", "q", [LONG, SHORT])["model_version"] == old["model_version"]
        for user in range(6):
            client.feedback(f"late {user}", choices(3, 100 + 10 * user))
        listed = lore("model", run).output
        assert "points (95 % interval" in listed
        assert "beside the one that answers, 6 people" in listed
        standing = {one["version"]: one for one in client.models()}
        assert standing[old["model_version"]]["serving"]
        assert standing[new]["gain"]["mean"] >= 0

        assert lore("model", run, "--serve", new).exit_code == 0
        migrated = client.user("ann")
        assert (migrated["model_version"], migrated["comparisons"]) == (new, 4)
        pairs = client_pairs(application, "ann")
        expected = fit_weights(pairs, RewardBasis.load(better / "model")).weights[0]
        assert migrated["weights"] == pytest.approx(expected.tolist(), abs=1e-5)
        assert lore("model", run, "--rollback").output.startswith(old["model_version"])
        assert client.user("ann") == old
        assert "no other model was served before" in str(lore("model", run, "--rollback").exception)


def client_pairs(application: Application, user: str) -> Pairs:
    service = application.service
    return pairs_of_events([service.store.events("default", user)], [user], service.table)


def test_a_model_in_service_survives_a_restart_and_a_run_trained_anew_takes_its_place(run: Path, better: Path) -> None:
    with TestClient(create_app(run)) as http:
        first = Client(http=http).user("u0")["model_version"]
    new = lore("model", run, "--add", better).output.split()[0]
    lore("model", run, "--serve", new)
    with TestClient(create_app(run)) as http:
        assert Client(http=http).user("u0")["model_version"] == new
    basis = RewardBasis.load(run / "model")
    replace(basis, temperature=2.0).save(run / "model")
    with TestClient(create_app(run)) as http:
        assert Client(http=http).user("u0")["model_version"] not in (first, new)
        found = http.get("/v1/models").json()["models"]
        assert len(found) == 3


def test_models_that_do_not_fit_or_are_not_there_are_refused(run: Path, better: Path) -> None:
    assert "begin it with `lore serve RUN`" in str(lore("model", run, "--database", better / "none.sqlite").exception)
    assert not (better / "none.sqlite").exists()
    Database(str(better / "empty.sqlite")).close()
    assert "has no model yet" in str(lore("model", run, "--database", better / "empty.sqlite").exception)
    with TestClient(create_app(run)) as http:
        with pytest.raises(ServerError, match="there is no model 'nine'") as caught:
            Client(http=http).rerank(None, "q", [LONG], model_version="nine")
        assert caught.value.status == 422
    assert "there is no model 'nine'" in str(lore("model", run, "--serve", "nine").exception)
    foreign = replace(RewardBasis.load(run / "model"), encoder={"encoder": "another"})
    foreign.save(better / "model")
    assert "vectors of another encoder" in str(lore("model", run, "--add", better).exception)
    assert "one of --add, --serve and --rollback" in str(lore("model", run, "--rollback", "--serve", "x").exception)
    assert lore("model", better / "nowhere").exit_code != 0


def test_an_operator_sees_people_accuracy_load_and_models_and_nobodys_name(run: Path) -> None:
    with TestClient(create_app(run)) as http:
        client = Client(http=http)
        short_first = client.rerank(None, "q0", [f"{SHORT} 0", LONG])["results"][0]["index"] == 0
        sides = ("rejected", "chosen") if short_first else ("chosen", "rejected")
        for user in range(8):
            for row in choices(6, 10 * user):  # against what the population likes
                contrary = {**row, "chosen": row[sides[0]], "rejected": row[sides[1]]}
                client.feedback(f"somebody {user}", [contrary])
        found = http.get("/v1/overview")
        seen = found.json()
        counted = len(read_people(run)) + 8
        assert seen["people"] == counted
        assert len(seen["map"]) == counted
        assert sum(place["comparisons"] for place in seen["map"]) == seen["comparisons"]
        assert sum(span["comparisons"] for span in seen["accuracy"]) == 48
        assert [span["until"] for span in seen["accuracy"]] == sorted(span["until"] for span in seen["accuracy"])
        assert seen["accuracy"][-1]["personal"] > seen["accuracy"][-1]["population"]
        assert sum(span["requests"] for span in seen["load"]) == 49
        assert [model["serving"] for model in seen["models"]] == [True]
        assert "somebody" not in found.text


def read_people(run: Path) -> list[str]:
    return list(load(run / "preferences.parquet").users)


# --- tenants and tokens -------------------------------------------------------------------------------------------


@pytest.fixture
def tokens(run: Path) -> dict[str, str]:
    url = str(run / "feedback.sqlite")
    every = ["read", "feedback", "admin", "erase"]
    made = {
        "one": (["read", "feedback"], "one"),
        "two": (["read", "feedback"], "two"),
        "root": (every, "default"),
        "reader": (["read"], "default"),
    }
    return {name: change_tokens(url, tenant, scopes, None, None, 0, None)[0] for name, (scopes, tenant) in made.items()}


def test_every_route_but_one_asks_for_a_token(run: Path, tokens: dict[str, str]) -> None:
    own = Application(run)
    paths = own.routed().openapi()["paths"]
    every = [(method, path) for path, methods in paths.items() for method in methods]
    every += [("get", "/"), ("get", "/openapi.json"), ("get", "/docs"), ("get", "/redoc")]
    with TestClient(own.gated()) as http:
        for method, path in every:
            answer = http.request(method, path.replace("{user}", "u0"), json={})
            expected = {"/livez": 200, "/docs": 404, "/redoc": 404}.get(path, 401)
            assert answer.status_code == expected, (method, path)
            wrong = {"Authorization": f"Bearer {tokens['root'][:-1]}x"}
            assert http.request(method, path.replace("{user}", "u0"), json={}, headers=wrong).status_code == expected
        assert len(every) > 12


def test_scopes_are_kept_apart(run: Path, tokens: dict[str, str]) -> None:
    with TestClient(create_app(run)) as http:
        reader, root = Client(http=http, token=tokens["reader"]), Client(http=http, token=tokens["root"])
        assert reader.user("u0")["personalized"]
        for refused in (lambda: reader.feedback("u0", choices(1)), lambda: reader.erase("u0")):
            with pytest.raises(ServerError) as error:
                refused()
            assert error.value.status == 403
        assert root.feedback("u0", choices(1))["accepted"] == 1
        assert http.get("/", auth=("anybody", tokens["reader"])).status_code == 200  # as a browser asks
        assert http.get("/metrics", auth=("anybody", tokens["reader"])).status_code == 403


def test_tenants_see_nothing_of_each_other(run: Path, tokens: dict[str, str]) -> None:
    with TestClient(create_app(run)) as http:
        one, two = (Client(http=http, token=tokens[name]) for name in ("one", "two"))
        rng = torch.Generator().manual_seed(0)
        sent: dict[str, set[str]] = {"one": set(), "two": set()}
        statuses = set()
        for at in range(60):
            name = ("one", "two")[int(torch.randint(2, (1,), generator=rng))]
            user = f"p{int(torch.randint(4, (1,), generator=rng))}"
            row = {"chosen": f"{name} {at}", "rejected": LONG, "event_id": f"shared-{at // 2}"}
            try:
                (one if name == "one" else two).feedback(user, [row])
                sent[name].add(row["chosen"])
            except ServerError as refused:  # its own id, used before
                statuses.add(refused.status)
        assert statuses == {409}
        for name, own in (("one", one), ("two", two)):
            kept = [row for user in range(4) for row in own.export(f"p{user}")]
            texts = {row["chosen"][0]["content"] for row in kept}
            assert texts == sent[name]
            assert not own.user("u0")["personalized"]  # the run's people are the default tenant's
        weights = [own.user("p0")["weights"] for own in (one, two)]
        assert weights[0] != weights[1]


def test_a_token_is_stored_hashed_rotated_with_overlap_and_revoked_in_use(run: Path, tokens: dict[str, str]) -> None:
    url = str(run / "feedback.sqlite")
    secret = tokens["one"].split("_", 2)[2]
    for path in run.glob("feedback.sqlite*"):
        assert secret.encode() not in path.read_bytes()
    with TestClient(create_app(run)) as http:
        token_id = tokens["one"].split("_")[1]
        new = change_tokens(url, None, [], None, token_id, 10, None)[0]
        for given in (tokens["one"], new):
            assert Client(http=http, token=given).user("x")["comparisons"] == 0
        change_tokens(url, None, [], None, None, 0, token_id)
        with pytest.raises(ServerError, match="401"):
            Client(http=http, token=tokens["one"]).user("x")
        assert Client(http=http, token=new).user("x")["comparisons"] == 0
    assert any(token_id in line and "ended" in line for line in change_tokens(url, None, [], None, None, 0, None))
    with pytest.raises(ConfigError, match="that is valid"):  # what is revoked is not brought back
        change_tokens(url, None, [], None, token_id, 10, None)
    brief = change_tokens(url, "one", ["read"], 1, None, 0, None)[0].split("_")[1]
    change_tokens(url, None, [], None, brief, 10_000, None)
    kept = [line for line in change_tokens(url, None, [], None, None, 0, None) if "read, until" in line]
    assert len({line.split("until")[1] for line in kept}) == 1  # the new one ends when the old one would have
    assert len(kept) == 2
    with pytest.raises(ConfigError, match="name a tenant"):
        change_tokens(url, " ", ["read"], None, None, 0, None)
    for bad in ({"scopes": ["rule"], "create": "x"}, {"rotate": "nothing"}, {"revoke": "nothing"}):
        given = {"create": None, "scopes": [], "rotate": None, "revoke": None, **bad}
        with pytest.raises(ConfigError):
            change_tokens(url, given["create"], given["scopes"], None, given["rotate"], 0, given["revoke"])


def test_tokens_are_made_shown_once_and_listed_from_the_terminal(run: Path, tmp_path: Path) -> None:
    def typed(*arguments: str) -> tuple[int, str]:
        found = CliRunner().invoke(cli.app, ["token", *arguments])
        return found.exit_code, found.output

    code, made = typed(str(run), "--create", "acme", "--scopes", "read", "--days", "1")
    assert code == 0
    token = made.split()[0]
    assert token.startswith("lore_")
    listed = typed(str(run))[1]
    assert "acme, read, until" in listed
    assert token.split("_", 2)[2] not in listed
    assert "is revoked" in typed(str(run), "--revoke", token.split("_")[1])[1]
    assert typed(str(run), "--create", "a", "--revoke", "b")[0] != 0
    assert typed(str(tmp_path / "mistyped"), "--create", "a")[0] != 0
    assert not (tmp_path / "mistyped").exists()


def test_without_tokens_no_other_machine_is_served(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lore.serve.app import serve

    asked: dict[str, Any] = {}
    monkeypatch.setattr("uvicorn.run", lambda _, **options: asked.update(options))
    with pytest.raises(ConfigError, match="tokens"):
        serve(run, 8123, "0.0.0.0")
    change_tokens(str(run / "feedback.sqlite"), "t", ["read"], None, None, 0, None)
    serve(run, 8123, "0.0.0.0")
    assert (asked["host"], asked["port"]) == ("0.0.0.0", 8123)


# --- erasure ------------------------------------------------------------------------------------------------------


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


def test_an_erased_person_is_nowhere_and_does_not_come_back(run: Path) -> None:
    split = read_json(run / "split.json")
    own = next(user for user in ("u0",) if user in split["seen_users"] + split["unseen_users"])
    with TestClient(create_app(run)) as http:
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
    with TestClient(create_app(run)) as http:  # and is not brought back by the run's own comparisons
        client = Client(http=http)
        assert client.export(own) == []
        assert client.user("u1")["personalized"]
    from lore.train import evaluate_step

    assert evaluate_step(run)["seen_test"].users >= 1  # the run is whole without them


def test_each_of_several_erasures_stays_done_and_weights_without_rows_go_too(run: Path) -> None:
    ids = read_json(run / "users" / "ids.json")
    weights = Run.load(run).weights
    save_users(run / "users", [*ids, "personalized later"], torch.cat([weights, weights[:1]]))
    with TestClient(create_app(run)) as http:
        client = Client(http=http)
        assert all(client.erase(user)["run"] for user in ("u2", "u3", "personalized later"))
        assert not client.erase("u2")["run"]
        client.feedback("ann", choices(1))
    assert not {"u2", "u3", "personalized later"} & set(Run.load(run).users)
    table = load(run / "preferences.parquet")
    assert not {"u2", "u3"} & set(table.users)
    assert len(Run.load(run).users) == len(ids) - 2


def test_an_erasure_that_was_cut_short_is_finished_when_asked_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with TestClient(create_app(run)) as http:
        client = Client(http=http)

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Preferences, "to_parquet", full)
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
    with TestClient(create_app(run)) as http:
        client = Client(http=http)
        export = client.export("u0")[0]
        shared = {side: export[side] for side in ("prompt", "chosen", "rejected")}
        client.feedback("ann", [shared])
        client.erase("u0")
        assert client.user("ann")["comparisons"] == 1
    with TestClient(create_app(run)) as http:
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
    opened.store.erase("default", "ann")
    batches = [Batch("default", events("ann", 1)), Batch("default", events("bob", 1, 5))]
    vectors = {key: b"1234" for batch in batches for event in batch.events for key in event.keys}
    assert isinstance(opened.store.append(batches, vectors)[0], Gone)
    theirs = {key for event in batches[1].events for key in event.keys}
    assert set(opened.store.vectors(vectors)) == theirs
    assert opened.store.in_use(vectors) == theirs
    opened.close()


# --- limits, and bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 422),
        (b'{"query": "q", "documents": []}', 422),
        (b'{"query": "q", "documents": ["a\\u0000b"]}', 422),
        (b'{"query": "q", "documents": ["\\ud800"]}', 422),
        (b'{"query": "q", "documents": [3]}', 422),
        (b'{"query": "q", "documents": ["a"], "top_n": NaN}', 422),
        (b'{"query": "q", "documents": [[{"role": "x", "content": "y"}]]}', 422),
        (b"[" * 100_000, 422),
        (b'"' + b'\\"' * 1_000_000, 422),
        (b'{"query": "' + b"x" * 10_000_000 + b'", "documents": ["a"]}', 413),
        (b"\xff\xfe", 422),
    ],
)
def test_what_cannot_be_used_is_refused(http: TestClient, body: bytes, status: int) -> None:
    answer = http.post("/v1/rerank", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert "detail" in answer.json()


def test_names_with_slashes_and_per_cents_are_peoples_own(client: Client) -> None:
    for name in ("a/b", "ann/export", "50%", "a%2Fb", "./x"):
        client.feedback(name, [{"prompt": "q", "chosen": SHORT, "rejected": LONG}])
        known = client.user(name)
        assert (known["user"], known["comparisons"]) == (name, 1)
    assert client.erase("a/b")["events"] == 1
    assert client.user("a%2Fb")["comparisons"] == 1


def test_a_request_that_does_not_arrive_is_given_up(run: Path) -> None:
    gate = create_app(run, limits=Limits(reading=0.01))
    sent: list[Any] = []

    async def never() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/score", "headers": [(b"host", b"localhost:80")]}
    asyncio.run(gate(scope, never, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 408


def test_without_tokens_nobody_is_answered_who_calls_it_by_another_name(run: Path) -> None:
    with TestClient(create_app(run)) as http:
        assert http.get("/v1/users/u0/export", headers={"host": "evil.example"}).status_code == 403
        assert http.get("/v1/users/u0/export", headers={"host": "localhost:8000"}).status_code == 200


@pytest.mark.parametrize("label", ["\0", "x" * 257, "\ud800"])
def test_a_label_that_is_no_name_is_refused(http: TestClient, label: str) -> None:
    body = json.dumps({"query": ["a"], "labels": [label]})
    assert http.post("/get_reward", content=body, headers={"content-type": "application/json"}).status_code == 422


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1", '"x"'])
def test_a_weight_that_is_no_number_is_refused(http: TestClient, number: str) -> None:
    body = f'{{"comparisons": [{{"chosen": "a", "rejected": "b", "weight": {number}}}]}}'
    answer = http.post("/v1/users/ann/feedback", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert "weight" in answer.text
    sound = body.replace(number, "0.5")
    sent = http.post("/v1/users/ann/feedback", content=sound, headers={"Content-Type": "application/json"})
    assert sent.status_code == 200


def test_the_same_response_twice_is_no_choice(client: Client) -> None:
    with pytest.raises(ServerError, match="two responses"):
        client.feedback("ann", [{"chosen": "a", "rejected": "a"}])


def test_brackets_within_texts_are_not_nesting(client: Client) -> None:
    assert client.rerank(None, '\\" [[{{' * 50, ['"' + "[" * 100, "]" * 100])["results"]


def test_more_than_a_token_may_ask_is_put_off(run: Path) -> None:
    with TestClient(create_app(run, limits=Limits(rate=0.001, burst=2))) as http:
        statuses = [http.get("/v1/users/ann").status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        assert int(http.get("/v1/users/ann").headers["retry-after"]) >= 1
    assert Buckets(0, 1).wait("x") == 0


def test_more_at_once_than_is_worked_on_is_turned_away_at_once(run: Path) -> None:
    own = Application(run, limits=Limits(at_once=1))
    entered, leave = threading.Event(), threading.Event()
    person = own.service.person

    def slow(*given: Any) -> Any:
        entered.set()
        leave.wait()
        return person(*given)

    own.service.person = slow  # type: ignore[method-assign]
    with TestClient(own.gated()) as http:
        first: list[int] = []
        thread = threading.Thread(target=lambda: first.append(http.get("/v1/users/ann").status_code))
        thread.start()
        entered.wait()
        turned_away = http.get("/v1/users/bob")
        assert (turned_away.status_code, turned_away.headers["retry-after"]) == (503, "1")
        assert http.get("/livez").status_code == http.head("/livez").status_code == 200
        leave.set()
        thread.join()
        assert first == [200]


def test_a_key_that_was_used_is_for_the_same_choices_only(http: TestClient) -> None:
    def told(rows: list[dict[str, Any]]) -> int:
        rows = [{name: value for name, value in row.items() if name != "event_id"} for row in rows]
        answer = http.post("/v1/users/ann/feedback", json={"comparisons": rows}, headers={"Idempotency-Key": "k"})
        return answer.status_code

    assert [told(choices(1)), told(choices(1)), told(choices(2)), told(choices(1, 7))] == [200, 200, 409, 409]
    assert http.get("/v1/users/ann").json()["comparisons"] == 1


def test_limits_are_checked() -> None:
    for bad in (
        {"body": 0},
        {"at_once": 0},
        {"computing": 0},
        {"patience": -0.1},
        {"patience": math.nan},
        {"rate": -1.0},
    ):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            Limits(**bad)  # type: ignore[arg-type]


# --- bad days -----------------------------------------------------------------------------------------------------


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
def test_an_encoder_that_fails_is_503_and_not_a_score(run: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    broken = Broken(how)
    monkeypatch.setattr("lore.serve.app.load_encoder", lambda *_: broken)
    with TestClient(create_app(run)) as http:
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
    while vectors._waiting.qsize() < 8:
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
    other.store.noted("encoder", '{"encoder": "another"}')
    other.close()
    with pytest.raises(StoreError, match="another encoder"):
        create_app(run, tmp_path / "f.sqlite")


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
    monkeypatch.setattr("lore.users.time.time", lambda: 0.0)
    assert client.feedback("ann", choices(1, 1))["weights_version"] > first
    assert [row["comparison_id"] for row in client.export("ann")] == ["e0", "e1"]


def test_gone_people_are_told_apart_by_tenant(tmp_path: Path) -> None:
    opened = Database(str(tmp_path / "e.sqlite"))
    opened.store.erase("one", "ann")
    outcomes = opened.store.append([Batch("one", events("ann", 1)), Batch("two", events("ann", 1))])
    assert outcomes[0] == Gone("ann")
    assert isinstance(outcomes[1], Accepted)
    opened.close()


# --- seen from outside --------------------------------------------------------------------------------------------


def test_it_is_observed_without_naming_anybody(
    http: TestClient, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="lore.serve"):
        client.feedback("ann", [{"prompt": SECRET, "chosen": SHORT, "rejected": LONG}])
        client.rerank("ann", SECRET, [LONG, SHORT])
        answer = http.get("/readyz")
    assert answer.json()["status"] == "ready"
    lines = [json.loads(record.message) for record in caplog.records if record.name == "lore.serve"]
    assert [line["route"] for line in lines][:2] == ["/v1/users/{user}/feedback", "/v1/rerank"]
    assert len({line["request"] for line in lines}) == len(lines)
    assert answer.headers["x-request-id"] == lines[-1]["request"]
    counted = http.get("/metrics").text
    assert 'lore_requests_total{method="POST",route="/v1/rerank",status="200"} 1.0' in counted
    assert 'lore_reranked_total{personalized="true"} 1.0' in counted
    assert "lore_events_total 1.0" in counted
    for said in (caplog.text, counted):
        assert "ann" not in said
        assert SECRET not in said


def test_the_description_is_complete(http: TestClient) -> None:
    described = http.get("/openapi.json").json()
    for path, methods in described["paths"].items():
        for method, route in methods.items():
            assert route["description"], path
            schema = route["responses"]["200"].get("content", {})
            assert schema, (method, path)


# --- PostgreSQL ---------------------------------------------------------------------------------------------------


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
    with TestClient(create_app(run, fresh_postgres)) as http:
        client = Client(http=http)
        first = client.feedback("ann", choices(6))
        assert client.feedback("ann", choices(6)) == first
        with pytest.raises(ServerError, match="409"):
            client.feedback("ann", [choices(1)[0] | {"chosen": "island"}])
        served = client.user("ann")["weights"]
    with TestClient(create_app(run, fresh_postgres)) as http:
        client = Client(http=http)
        assert client.user("ann")["weights"] == pytest.approx(served, abs=1e-6)
        assert client.erase("ann")["events"] == 6
        with pytest.raises(ServerError, match="410"):
            client.feedback("ann", choices(1))


def test_two_servers_on_postgresql_see_each_others_writes(run: Path, fresh_postgres: str) -> None:
    with TestClient(create_app(run, fresh_postgres)) as one, TestClient(create_app(run, fresh_postgres)) as two:
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
            outcome = opened.store.append([Batch("default", events("ann", 2, 2 * at))])[0]
            assert isinstance(outcome, Accepted)
            added.append(outcome.added)

    threads = [threading.Thread(target=write, args=(opened,)) for opened in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(added) == 60
    assert len(stores[0].store.events("default", "ann")) == 60
    for opened in stores:
        opened.close()


def test_a_database_that_goes_and_comes_back_is_503_meanwhile(run: Path, fresh_postgres: str) -> None:
    import sqlalchemy as sql

    with TestClient(create_app(run, fresh_postgres)) as http:
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


# --- any request that the description allows, and many that it does not -------------------------------------------


@pytest.fixture
def described(run: Path) -> Iterator[Any]:
    own = Application(run)
    gate = own.gated()

    async def named(scope: Any, receive: Any, send: Any) -> None:
        """The gate, by the name that it answers to without tokens."""
        headers = [(name, b"127.0.0.1" if name == b"host" else value) for name, value in scope.get("headers", [])]
        await gate({**scope, "headers": headers}, receive, send)

    yield schemathesis.openapi.from_asgi("/openapi.json", named)
    own.close()


CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_every_answer_is_as_described(described: Any) -> None:
    checks = [schemathesis.checks.CHECKS.get_one(name) for name in CHECKS]
    answered = []
    for result in described.get_all_operations():
        operation = result.ok()

        @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(case=operation.as_strategy())
        def validate(case: Any) -> None:
            case.call_and_validate(checks=checks)

        validate()
        answered.append(operation.label)
    assert len(answered) >= 12
