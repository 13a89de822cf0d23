"""Access rights: the tenant and the scopes come from the token, never from the request."""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import HTTPException, Request

from lore.serve.limits import RateLimiter
from lore.serve.service import TENANT
from lore.serve.store.tokens import SCOPES, TokenStore


@dataclass(frozen=True)
class Caller:
    """The tenant and scopes that a request is answered for."""

    tenant: str
    scopes: frozenset[str]


class Access:
    """Asks every request for a token, where there are any; without any the server is on this machine only."""

    def __init__(self, tokens: TokenStore, rate_limiter: RateLimiter, *, needs_token: bool) -> None:
        self._tokens, self._rate_limiter, self._needs_token = tokens, rate_limiter, needs_token

    def allowed(self, scope: str) -> Callable[[Request], Caller]:
        """Return a dependency that refuses callers without a scope."""

        def caller(request: Request) -> Caller:
            presented = _token_in(request.headers.get("authorization", ""))
            if not self._needs_token:
                return self._counted("", Caller(TENANT, SCOPES))
            token = self._tokens.find(presented) if presented is not None else None
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
        wait = self._rate_limiter.wait(holder)
        if wait > 0:
            raise HTTPException(429, "too many requests of this token", {"Retry-After": str(int(wait) + 1)})
        return caller


def _token_in(header: str) -> str | None:
    """Return the token in a header: `Bearer TOKEN`, or Basic with the token as the password, which browsers ask for."""
    kind, _, value = header.partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return None
    return None
