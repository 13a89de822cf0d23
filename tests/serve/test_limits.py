import asyncio
import json
import math
import threading
from pathlib import Path
from typing import Any

import pytest

from lore.errors import ConfigError
from lore.serve.client import Client, ServerError
from lore.serve.limits import Limits, RateLimiter
from serve_builders import TestClient, quick_app, quick_application
from serving import LONG, SHORT, choices


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
    gate = quick_app(run, limits=Limits(reading=0.01))
    sent: list[Any] = []

    async def never() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/score", "headers": [(b"host", b"localhost:80")]}
    asyncio.run(gate(scope, never, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 408


def test_without_tokens_nobody_is_answered_who_calls_it_by_another_name(run: Path) -> None:
    with TestClient(quick_app(run)) as http:
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
    with TestClient(quick_app(run, limits=Limits(rate=0.001, burst=2))) as http:
        statuses = [http.get("/v1/users/ann").status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        assert int(http.get("/v1/users/ann").headers["retry-after"]) >= 1
    assert RateLimiter(0, 1).wait("x") == 0


def test_more_at_once_than_is_worked_on_is_turned_away_at_once(run: Path) -> None:
    own = quick_application(run, limits=Limits(at_once=1))
    entered, leave = threading.Event(), threading.Event()
    person = own.service.user_state

    def slow(*given: Any) -> Any:
        entered.set()
        leave.wait()
        return person(*given)

    own.service.user_state = slow  # type: ignore[method-assign]
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
