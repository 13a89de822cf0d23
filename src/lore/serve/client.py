"""A typed client of the server in one file."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from lore.errors import LoreError, MissingExtra

try:
    import httpx
except ImportError:  # pragma: no cover - the extra is installed wherever the tests run
    raise MissingExtra("httpx", "serve") from None

Content = str | Sequence[dict[str, str]]  # a text, or chat messages


class ServerError(LoreError):
    """The server refused.

    Attributes:
        status: of the answer.
        detail: what it said.
    """

    def __init__(self, status: int, detail: Any) -> None:
        super().__init__(f"the server answered {status}: {detail}")
        self.status, self.detail = status, detail


class UnreachableError(LoreError):
    """The server did not answer."""


class Client:
    """Talks to a server of personal rewards; a context manager that closes its connections."""

    def __init__(
        self, url: str = "http://127.0.0.1:8000", token: str | None = None, http: httpx.Client | None = None
    ) -> None:
        """Connect to a server.

        Args:
            url: of the server.
            token: where it asks for one.
            http: a client to use instead of one of our own.
        """
        self._http = http or httpx.Client(base_url=url)
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rerank(
        self,
        user: str | None,
        query: Content,
        documents: Sequence[Content],
        *,
        min_version: int = 0,
        model_version: str | None = None,
    ) -> dict[str, Any]:
        """Order responses for a user; for the population where `user` is None."""
        body = {
            "user": user,
            "query": query,
            "documents": list(documents),
            "min_version": min_version,
            "model_version": model_version,
        }
        return self._ask("POST", "/v1/rerank", body)

    def score(self, user: str | None, prompt: Content, responses: Sequence[Content]) -> list[float]:
        """Rewards of responses to one prompt."""
        rewards: list[float] = self._ask(
            "POST", "/v1/score", {"user": user, "prompt": prompt, "responses": list(responses)}
        )["rewards"]
        return rewards

    def feedback(self, user: str, comparisons: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Send choices of a user; each has `chosen`, `rejected`, and optionally `prompt` and `event_id`."""
        return self._ask("POST", f"{_path(user)}/feedback", {"comparisons": list(comparisons)})

    def user(self, user: str) -> dict[str, Any]:
        """Return the state of a user."""
        return self._ask("GET", _path(user))

    def next(self, user: str, prompt: Content = "", candidates: Sequence[Content] | None = None) -> dict[str, Any]:
        """Return what to ask a user next, among some responses or those of the run."""
        if candidates is None:
            return self._ask("GET", f"{_path(user)}/next")
        return self._ask("POST", f"{_path(user)}/next", {"prompt": prompt, "candidates": list(candidates)})

    def export(self, user: str) -> list[dict[str, Any]]:
        """All that is kept of a user."""
        rows: list[dict[str, Any]] = self._ask("GET", f"{_path(user)}/export")["comparisons"]
        return rows

    def erase(self, user: str) -> dict[str, Any]:
        """Remove all that is kept of a user, for good; the receipt."""
        return self._ask("DELETE", _path(user))

    def models(self) -> list[dict[str, Any]]:
        """Return the models that are served, and how each did."""
        models: list[dict[str, Any]] = self._ask("GET", "/v1/models")["models"]
        return models

    def overview(self) -> dict[str, Any]:
        """Users, accuracy over time, load and models, as the operator's page shows them."""
        return self._ask("GET", "/v1/overview")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, json=body, headers=self._headers)
        except httpx.HTTPError as error:
            raise UnreachableError(f"{self._http.base_url}: {error}; is `lore serve RUN` running there?") from None
        if response.is_error:
            try:
                detail = response.json()["detail"]
            except (ValueError, KeyError, TypeError):
                detail = response.text
            raise ServerError(response.status_code, detail)
        answer: dict[str, Any] = response.json()
        return answer


def _path(user: str) -> str:
    return f"/v1/users/{quote(user, safe='')}"
