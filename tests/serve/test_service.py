from pathlib import Path
from typing import Any

import pytest
import torch

from builders import HashEncoder
from lore.fitting.personalize import fit_weights
from lore.pairs.table import Pairs
from lore.runs.artifacts import Run
from lore.serve.client import Client, ServerError
from serve_builders import TestClient
from serving import LONG, SHORT, choices


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
