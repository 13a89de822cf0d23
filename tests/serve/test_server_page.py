"""The page in a real browser: a simulated person clicks, and is learned."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builders import HashEncoder, small_rows
from lore.data.formats import load_with_issues
from lore.runs.config import TrainConfig
from lore.runs.training import train
from lore.serve.client import Client
from serving import Server

CHROMIUM = shutil.which("chromium")
CLICKS = 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page")
    config = TrainConfig(encoder=HashEncoder(), family="gaussian", ranks=(2,), unseen=0.25)
    run = train(load_with_issues(small_rows(users=24, prompts=60)), folder / "run", config).folder
    started = Server(run, str(folder / "events.sqlite"))
    yield started
    started.end()


@pytest.fixture
def page(server: Server) -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1000, "height": 1100})
        problems: list[str] = []
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on("request", lambda request: problems.append(request.url) if server.url not in request.url else None)
        opened.goto(server.url)
        yield opened
        assert problems == []
        browser.close()


def accuracy(client: Client, user: str | None) -> float:
    """How often somebody who likes long answers finds the longer one first, among answers that were not shown."""
    rows = small_rows(users=1, prompts=160)[100:]
    pairs = [(row["prompt"], sorted((row["chosen"], row["rejected"]), key=len, reverse=True)) for row in rows]
    found = [client.rerank(user, prompt, texts)["results"][0]["index"] for prompt, texts in pairs]
    return sum(index == 0 for index in found) / len(found)


def test_twenty_clicks_teach_the_page_a_taste(page: Any, server: Server, tmp_path: Path) -> None:
    page.fill("#user", "long liker")
    page.click("text=Begin")
    page.wait_for_selector("#asking:not([hidden])")
    for click in range(CLICKS):
        sides = [page.inner_text(f"#{side}").split("\n", 1)[1] for side in ("first", "second")]
        longer = 0 if len(sides[0]) > len(sides[1]) else 1
        if click % 2:
            page.keyboard.press(str(longer + 1))
        else:
            page.click(("#first", "#second")[longer])
        page.wait_for_function(f"document.getElementById('summary').textContent.includes('From {click + 1} choices')")
        page.wait_for_function("!document.getElementById('first').disabled")
    with Client(server.url) as client:
        assert client.user("long liker")["comparisons"] == CLICKS
        assert accuracy(client, "long liker") > accuracy(client, None)
    assert page.locator("#chart rect").count() >= 2
    # The order of answers to a prompt follows every click by itself.
    assert page.locator("#yours li").count() == page.locator("#theirs li").count() == 2
    assert "worth asking" in page.inner_text("#worth") or "Enough" in page.inner_text("#worth")
    page.fill("#query", "Say 3")
    page.fill("#documents", "apple bread cloud dream eagle 3\nbread 3")
    page.click("text=Order them")
    page.wait_for_function("document.querySelector('#yours li').textContent == 'apple bread cloud dream eagle 3'")
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    page.on("dialog", lambda dialog: dialog.accept())
    page.click("text=Erase it, for good")
    page.wait_for_function("document.getElementById('problem').textContent.includes('Receipt')")
    with Client(server.url) as client:
        assert client.export("long liker") == []


def test_the_page_fits_a_phone_and_is_used_by_keyboard(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme="dark")
    page.focus("#user")
    page.keyboard.type("phone")
    page.keyboard.press("Enter")
    page.wait_for_selector("#asking:not([hidden])")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 23, 30)"


def test_the_operator_sees_people_accuracy_load_and_models(page: Any, server: Server, tmp_path: Path) -> None:
    rows = small_rows(users=8, prompts=30)
    with Client(server.url) as client:
        for row in rows:
            client.feedback(row["user_id"] + " new", [{side: row[side] for side in ("prompt", "chosen", "rejected")}])
    page.focus("#tab-taste")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#models tr")
    assert not page.is_visible("#taste")
    assert page.locator("#map circle").count() == 24 + 8
    assert page.locator("#accuracy polyline").count() == 2
    assert page.locator("#load rect").count() >= 2
    assert page.inner_text("#models tr").endswith("answers")
    assert " new" not in page.inner_text("#operator")
    page.screenshot(path=tmp_path / "operator.png", full_page=True)
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.click("#tab-taste")
    assert page.is_visible("#who")


def test_a_load_of_hundreds_a_second_is_shown_in_plain_numbers(page: Any, server: Server) -> None:
    with Client(server.url) as client:
        seen = client.overview()
    at = seen["load"][-1]["start"]
    busy = {**seen["load"][-1], "start": at, "requests": 1_234 * seen["seconds"]}
    page.route("**/v1/overview", lambda route: route.fulfill(json={**seen, "load": [busy]}))
    page.focus("#tab-taste")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#load rect")
    assert "1200" in page.locator("#load").text_content()
