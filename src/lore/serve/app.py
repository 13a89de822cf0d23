"""The HTTP application. Binds to this machine only: it asks for no token."""

from pathlib import Path
from typing import Any
from uuid import uuid4

from lore.errors import LoreError, MissingExtra
from lore.rewards import PersonalRewards, as_turns
from lore.serve.service import Service
from lore.users import Event, UserStore

try:
    from fastapi import FastAPI, Request
    from fastapi.responses import HTMLResponse, JSONResponse
    from pydantic import BaseModel, Field
except ImportError:  # pragma: no cover - the extra is installed wherever the tests run
    raise MissingExtra("fastapi", "serve") from None

HOST = "127.0.0.1"


class RerankRequest(BaseModel):
    """Candidates to order for a person."""

    user: str | None = None
    prompt: str | list[dict[str, str]] = ""
    candidates: list[str | list[dict[str, str]]] = Field(min_length=1, max_length=1000)


class Choice(BaseModel):
    """One choice; the same `event_id` sent again is not counted again."""

    prompt: str | list[dict[str, str]] = ""
    chosen: str | list[dict[str, str]]
    rejected: str | list[dict[str, str]]
    event_id: str = Field(default_factory=lambda: uuid4().hex, min_length=1, max_length=200)


class Feedback(BaseModel):
    """Choices of one person."""

    comparisons: list[Choice] = Field(min_length=1, max_length=1000)


def create_app(run: str | Path, database: str | Path | None = None) -> FastAPI:
    """The application for a RUN folder.

    Args:
        run: the RUN folder.
        database: the SQLite file of people's choices; `feedback.sqlite` in the run by default.
    """
    service = Service(PersonalRewards.load(run), UserStore(database or Path(run) / "feedback.sqlite"))
    app = FastAPI(title="LoRe", summary="Personal rewards: reranks responses for one person and learns from choices.")

    @app.exception_handler(LoreError)
    def refuse(_: Request, error: LoreError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=422)

    @app.get("/livez")
    def live() -> dict[str, str]:
        """Whether the server answers."""
        return {"status": "ok"}

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> str:
        return (Path(__file__).parent / "page.html").read_text(encoding="utf-8")

    @app.post("/v1/rerank")
    def rerank(request: RerankRequest) -> dict[str, Any]:
        """Order candidates for a person."""
        return service.rerank(request.user, request.prompt, request.candidates).to_json()

    @app.post("/v1/users/{user}/feedback")
    def feedback(user: str, request: Feedback) -> dict[str, Any]:
        """Learn from choices; answered when they are on disk."""
        added = service.feedback([_event(user, choice) for choice in request.comparisons])
        return {"user": user, "added": added, "weights_version": service.weights(user)[2]}

    @app.get("/v1/users/{user}")
    def describe(user: str) -> dict[str, Any]:
        """What is known of a person."""
        weights, comparisons, version = service.weights(user)
        known = {"personalized": comparisons > 0, "comparisons": comparisons, "weights_version": version}
        return {"user": user, **known, "weights": weights.tolist()}

    return app


def _event(user: str, choice: Choice) -> Event:
    prompt = as_turns("prompt", choice.prompt, "user") if choice.prompt else ()
    chosen, rejected = (
        as_turns(name, side, "assistant") for name, side in (("chosen", choice.chosen), ("rejected", choice.rejected))
    )
    return Event(choice.event_id, user, prompt, chosen, rejected)


def serve(run: str | Path, port: int) -> None:
    """Serve a RUN folder on this machine until it is interrupted."""
    import uvicorn

    uvicorn.run(create_app(run), host=HOST, port=port, log_level="warning")
