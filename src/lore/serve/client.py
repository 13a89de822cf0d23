"""A client of the server in one file."""

from collections.abc import Sequence
from typing import Any

from lore.errors import LoreError, MissingExtra

try:
    import httpx
except ImportError:  # pragma: no cover - the extra is installed wherever the tests run
    raise MissingExtra("httpx", "serve") from None


class Client:
    """Talks to a server of personal rewards."""

    def __init__(self, url: str = "http://127.0.0.1:8000", http: httpx.Client | None = None) -> None:
        self._http = http or httpx.Client(base_url=url)

    def rerank(self, user: str | None, prompt: Any, candidates: Sequence[Any]) -> dict[str, Any]:
        """Order candidates for a person."""
        return self._ask("POST", "/v1/rerank", {"user": user, "prompt": prompt, "candidates": list(candidates)})

    def feedback(self, user: str, comparisons: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Send choices of a person; each has `chosen`, `rejected`, and optionally `prompt` and `event_id`."""
        return self._ask("POST", f"/v1/users/{user}/feedback", {"comparisons": list(comparisons)})

    def user(self, user: str) -> dict[str, Any]:
        """What is known of a person."""
        return self._ask("GET", f"/v1/users/{user}", None)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        response = self._http.request(method, path, json=body)
        if response.is_error:
            raise LoreError(f"the server answered {response.status_code}: {response.text}")
        answer: dict[str, Any] = response.json()
        return answer
