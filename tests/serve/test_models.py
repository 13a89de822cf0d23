from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from lore import cli
from lore.data.formats import load
from lore.fitting.basis import RewardBasis
from lore.fitting.personalize import fit_weights
from lore.pairs.table import Pairs
from lore.runs.artifacts import Run
from lore.serve.app import Application
from lore.serve.client import Client, ServerError
from lore.serve.learning import pairs_of_events
from lore.serve.store.database import Database
from serve_builders import TestClient, quick_app, quick_application
from serving import LONG, SHORT, choices


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
    application = quick_application(run)
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
        assert "beside the one that answers, 6 users" in listed
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
    return pairs_of_events([service.store.events.of_user("default", user)], [user], service.table)


def test_a_model_in_service_survives_a_restart_and_a_run_trained_anew_takes_its_place(run: Path, better: Path) -> None:
    with TestClient(quick_app(run)) as http:
        first = Client(http=http).user("u0")["model_version"]
    new = lore("model", run, "--add", better).output.split()[0]
    lore("model", run, "--serve", new)
    with TestClient(quick_app(run)) as http:
        assert Client(http=http).user("u0")["model_version"] == new
    basis = RewardBasis.load(run / "model")
    replace(basis, temperature=2.0).save(run / "model")
    with TestClient(quick_app(run)) as http:
        assert Client(http=http).user("u0")["model_version"] not in (first, new)
        found = http.get("/v1/models").json()["models"]
        assert len(found) == 3


def test_models_that_do_not_fit_or_are_not_there_are_refused(run: Path, better: Path) -> None:
    assert "begin it with `lore serve RUN`" in str(lore("model", run, "--database", better / "none.sqlite").exception)
    assert not (better / "none.sqlite").exists()
    Database(str(better / "empty.sqlite")).close()
    assert "has no model yet" in str(lore("model", run, "--database", better / "empty.sqlite").exception)
    with TestClient(quick_app(run)) as http:
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
    with TestClient(quick_app(run)) as http:
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
        assert seen["users"] == counted
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
