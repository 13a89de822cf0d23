import json

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
