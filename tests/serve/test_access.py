from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from builders import HashEncoder
from lore import cli
from lore.errors import ConfigError
from lore.serve.admin import create_token, list_tokens, revoke_token, rotate_token
from lore.serve.client import Client, ServerError
from serve_builders import TestClient, quick_app, quick_application
from serving import LONG, choices


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
    return {name: create_token(url, tenant, scopes, None)[0] for name, (scopes, tenant) in made.items()}


def test_every_route_but_one_asks_for_a_token(run: Path, tokens: dict[str, str]) -> None:
    own = quick_application(run)
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
    with TestClient(quick_app(run)) as http:
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
    with TestClient(quick_app(run)) as http:
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
    with TestClient(quick_app(run)) as http:
        token_id = tokens["one"].split("_")[1]
        new = rotate_token(url, token_id, 10)[0]
        for given in (tokens["one"], new):
            assert Client(http=http, token=given).user("x")["comparisons"] == 0
        revoke_token(url, token_id)
        with pytest.raises(ServerError, match="401"):
            Client(http=http, token=tokens["one"]).user("x")
        assert Client(http=http, token=new).user("x")["comparisons"] == 0
    assert any(token_id in line and "ended" in line for line in list_tokens(url))
    with pytest.raises(ConfigError, match="that is valid"):  # what is revoked is not brought back
        rotate_token(url, token_id, 10)
    brief = create_token(url, "one", ["read"], 1)[0].split("_")[1]
    rotate_token(url, brief, 10_000)
    kept = [line for line in list_tokens(url) if "read, until" in line]
    assert len({line.split("until")[1] for line in kept}) == 1  # the new one ends when the old one would have
    assert len(kept) == 2
    with pytest.raises(ConfigError, match="name a tenant"):
        create_token(url, " ", ["read"], None)
    for refused in (
        lambda: create_token(url, "x", ["rule"], None),
        lambda: rotate_token(url, "nothing", 0),
        lambda: revoke_token(url, "nothing"),
    ):
        with pytest.raises(ConfigError):
            refused()


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
        serve(run, 8123, "0.0.0.0", encoder=HashEncoder())
    create_token(str(run / "feedback.sqlite"), "t", ["read"], None)
    serve(run, 8123, "0.0.0.0", encoder=HashEncoder())
    assert (asked["host"], asked["port"]) == ("0.0.0.0", 8123)
