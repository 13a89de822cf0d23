import json
from typing import Any

import pytest

from lore.serve.client import Client
from serve_builders import SECRET, TestClient
from serving import LONG, SHORT


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


CALL = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
SPELLINGS = {
    "parts": [{"role": "assistant", "content": [{"type": "text", "text": SHORT}]}],
    "ShareGPT": [{"from": "gpt", "value": SHORT}],
    "prompt repeated": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": SHORT}],
    "name": [{"role": "assistant", "name": "helper", "content": SHORT}],
}


@pytest.mark.parametrize("how", SPELLINGS)
def test_a_response_has_one_reward_however_it_is_spelled(http: TestClient, how: str) -> None:
    answer = http.post("/v1/score", json={"prompt": "Hi", "responses": [SHORT, SPELLINGS[how]]})
    assert answer.status_code == 200, answer.text
    first, second = answer.json()["rewards"]
    assert first == second


def test_calls_of_tools_are_read_as_files_spell_them(http: TestClient) -> None:
    calls = [
        [{"role": "assistant", "content": content, "tool_calls": [CALL]}, {"role": "tool", "content": "20 C"}]
        for content in (None, "", "Let me look.")
    ]
    calls.append([{"role": "assistant", "tool_calls": [CALL | {"id": "call_1"}]}, {"role": "tool", "content": "20 C"}])
    answer = http.post("/v1/score", json={"prompt": "Hi", "responses": calls})
    assert answer.status_code == 200, answer.text
    first, second, other, last = answer.json()["rewards"]
    assert first == second == last != other


def test_parts_that_are_no_text_are_refused_by_their_kind(http: TestClient) -> None:
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]
    answer = http.post("/v1/score", json={"prompt": image, "responses": ["x"]})
    assert answer.status_code == 422
    assert "image_url" in answer.text


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": [{"type": [], "text": "x"}]},
        {"role": "assistant", "content": [[[]]]},
        {"role": "assistant", "content": "x", "tool_calls": "lost"},
        {"role": "assistant", "tool_calls": {"a": 1}},
        {"role": [], "name": "x", "content": "x"},
        {"from": {}, "value": None},
    ],
)
def test_odd_messages_are_refused_and_never_a_fault_of_the_server(http: TestClient, message: Any) -> None:
    for body in ({"responses": [[message]]}, {"prompt": [message], "responses": ["x"]}):
        assert http.post("/v1/score", json=body).status_code == 422


def test_choices_without_a_prompt_share_what_both_sides_begin_with(http: TestClient, client: Client) -> None:
    turns = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": side}] for side in (SHORT, LONG)]
    client.feedback("ann", [{"chosen": turns[0], "rejected": turns[1]}])
    [comparison] = http.get("/v1/users/ann/export").json()["comparisons"]
    assert comparison["prompt"] == [{"role": "user", "content": "Hi"}]
    assert comparison["chosen"] == [{"role": "assistant", "content": SHORT}]
