"""The HTTP application: a run in service behind its gate, and what each refusal is called."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch

from lore.embedding.encoder import Encoder
from lore.embedding.load import load_encoder
from lore.errors import ConfigError, LoreError, MissingExtra
from lore.runs.artifacts import Run
from lore.runs.folder import RunFolder

try:
    import sqlalchemy.exc
    import uvicorn
    from anyio.to_thread import current_default_thread_limiter
    from fastapi import FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
except ImportError:  # pragma: no cover - the extra is installed wherever the tests run
    raise MissingExtra("fastapi", "serve") from None

from lore.serve import routes
from lore.serve.access import Access
from lore.serve.admission import AdmissionQueue
from lore.serve.limits import Limits, LimitsMiddleware, RateLimiter
from lore.serve.metrics import Metrics
from lore.serve.schemas import Problem
from lore.serve.service import ConflictError, ErasedError, NotYetError, Service
from lore.serve.store.database import Database
from lore.serve.vectors import EncoderDownError

HOST = "127.0.0.1"
_OWN_HOSTS = (HOST, "localhost", "::1")
_LOG = logging.getLogger("lore.serve")
_STATUS: dict[type[LoreError], int] = {ConflictError: 409, ErasedError: 410, NotYetError: 409, EncoderDownError: 503}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": meaning}
    for status, meaning in {
        401: "no token, or none that is known",
        403: "the token lacks a scope, or without tokens the request is for another host",
        408: "the request did not arrive in time",
        409: "an `event_id` was used for another choice, or the version is not known here yet",
        410: "the user was erased",
        413: "longer than this server takes",
        422: "not what this route takes",
        429: "too many requests of this token",
        503: "the encoder, the database or the server is at its end; try again",
    }.items()
}


class Application:
    """A run in service, and what was opened for it."""

    def __init__(
        self,
        run: str | Path,
        database: str | None = None,
        limits: Limits | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        """Open the database, load the run and its encoder.

        Args:
            run: the RUN folder.
            database: of users' choices: a SQLite file, `feedback.sqlite` in the run by default, or a URL.
            limits: of what is taken.
            encoder: that of the run; loaded by its name by default.

        Raises:
            LoreError: the run or the database cannot be used.
        """
        finished = Run.load(run)
        encoder = encoder or load_encoder(finished.encoder, finished.options)
        self.limits, self.metrics = limits or Limits(), Metrics()
        self.admission = AdmissionQueue(self.limits.computing, self.limits.patience)
        self._database = Database(database or str(RunFolder(Path(run)).feedback))
        try:
            self.service = Service(finished, encoder, self._database.store, self.admission.released)
        except LoreError:
            self._database.close()
            raise
        self.needs_token = bool(self._database.store.tokens.all())
        rate_limiter = RateLimiter(self.limits.rate, self.limits.burst)
        self.access = Access(self._database.store.tokens, rate_limiter, needs_token=self.needs_token)

    def close(self) -> None:
        """Finish what was accepted, and release everything."""
        self.service.close()
        self._database.close()

    def routed(self) -> FastAPI:
        """Return the routes, without the gate."""

        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            # Whoever waits for the encoder or the disk holds a thread, and must not keep others from theirs.
            current_default_thread_limiter().total_tokens = self.limits.at_once
            yield
            self.close()

        app = FastAPI(
            title="LoRe",
            summary="Personal rewards: orders responses for one user and learns from what they choose.",
            lifespan=lifespan,
            openapi_url=None,
            responses=_REFUSALS,
        )
        for router in (routes.ops_routes, routes.admin_routes, routes.ranking_routes, routes.user_routes):
            app.include_router(router(self.service, self.access, self.metrics))
        _name_refusals(app)
        return app

    def gated(self) -> LimitsMiddleware:
        """Return the ASGI application."""
        return LimitsMiddleware(self.routed(), self.limits, self.metrics, self.admission, local=not self.needs_token)


def create_app(
    run: str | Path,
    database: str | Path | None = None,
    limits: Limits | None = None,
    encoder: Encoder | None = None,
) -> LimitsMiddleware:
    """Return the ASGI application for a RUN folder; arguments as for `Application`."""
    return Application(run, None if database is None else str(database), limits, encoder).gated()


def _name_refusals(app: FastAPI) -> None:
    """Set what each error is answered with; texts and ids stay out of the log."""

    @app.exception_handler(LoreError)
    def refuse(_: Request, error: LoreError) -> JSONResponse:
        status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 422)
        return _problem(status, str(error))

    @app.exception_handler(RequestValidationError)
    def unfit(_: Request, error: RequestValidationError) -> JSONResponse:
        # What was sent is not sent back: it may be long, secret, or no text that JSON can hold.
        details = [{"where": [_sayable(part) for part in one["loc"]], "why": one["msg"]} for one in error.errors()]
        return JSONResponse({"detail": details}, 422)

    @app.exception_handler(sqlalchemy.exc.SQLAlchemyError)
    def unavailable(_: Request, error: sqlalchemy.exc.SQLAlchemyError) -> JSONResponse:
        _LOG.error("database: %s", type(error).__name__)
        return _problem(503, "the database cannot be reached or written; nothing was acknowledged, try again")

    @app.exception_handler(OSError)
    def unwritable(_: Request, error: OSError) -> JSONResponse:
        _LOG.error("files: %s", type(error).__name__)
        return _problem(503, "a file cannot be read or written; what was asked for is not done, try again")


def _sayable(part: Any) -> Any:
    return part.encode("ascii", "backslashreplace").decode() if isinstance(part, str) else part


def _problem(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status, {"Retry-After": "1"} if status == 503 else None)


def serve(
    run: str | Path,
    port: int,
    host: str = HOST,
    database: str | None = None,
    limits: Limits | None = None,
    encoder: Encoder | None = None,
) -> None:
    """Serve a RUN folder until it is interrupted.

    Raises:
        ConfigError: the host is not this machine, and there are no tokens.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)  # the log holds requests, one JSON object a line
    application = Application(run, database, limits, encoder)
    if host not in _OWN_HOSTS and not application.needs_token:
        application.close()
        raise ConfigError(
            f"`host` {host} is open to others, and there are no tokens; make one with `lore token RUN --create TENANT`"
        )
    torch.set_num_threads(1)  # requests run side by side; threads of their own would only wait for each other
    uvicorn.run(application.gated(), host=host, port=port, log_level="warning", access_log=False)
