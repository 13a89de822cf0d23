"""Who may do what: the tenant and the scopes come from the token, never from the request."""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import HTTPException, Request

from lore.serve.limits import Buckets
from lore.serve.service import TENANT
from lore.users import SCOPES, UserStore


@dataclass(frozen=True)
class Caller:
    """For whom a request is answered."""

    tenant: str
    scopes: frozenset[str]


class Access:
    """Asks every request for a token, where there are any; without any the server is on this machine only."""

    def __init__(self, store: UserStore, buckets: Buckets, *, needs_token: bool) -> None:
        self._store, self._buckets, self._needs_token = store, buckets, needs_token

    def allowed(self, scope: str) -> Callable[[Request], Caller]:
        """A dependency that refuses whoever may not."""

        def caller(request: Request) -> Caller:
            given = _given(request.headers.get("authorization", ""))
            if not self._needs_token:
                return self._counted("", Caller(TENANT, SCOPES))
            token = self._store.token(given) if given is not None else None
            if token is None:
                raise HTTPException(
                    401,
                    "a token is needed, and this is none or has expired",
                    {"WWW-Authenticate": 'Basic realm="LoRe"'},
                )
            if scope not in token.scopes:
                raise HTTPException(403, f"this token lacks the scope {scope!r}")
            return self._counted(token.token_id, Caller(token.tenant, token.scopes))

        return caller

    def _counted(self, holder: str, caller: Caller) -> Caller:
        wait = self._buckets.wait(holder)
        if wait > 0:
            raise HTTPException(429, "too many requests of this token", {"Retry-After": str(int(wait) + 1)})
        return caller


def _given(header: str) -> str | None:
    """The token in a header: `Bearer TOKEN`, or Basic with the token as the password, which browsers ask for."""
    kind, _, value = header.partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return None
    return None
