"""Access tokens: who may do what."""

import hmac
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import sqlalchemy as sql

from lore.serve.store.tables import tokens

SCOPES = frozenset({"read", "feedback", "admin", "erase"})


@dataclass(frozen=True)
class Token:
    """The rights of one token; its secret is stored as a hash only.

    Attributes:
        token_id: public part.
        tenant: whose users it is for.
        scopes: some of `SCOPES`.
        expires: seconds since 1970, or None.
    """

    token_id: str
    tenant: str
    scopes: frozenset[str]
    expires: float | None


class TokenStore:
    """Tokens by their public part."""

    def __init__(self, engine: sql.Engine) -> None:
        self._engine = engine

    def create(self, tenant: str, scopes: Iterable[str], expires: float | None = None) -> str:
        """Make a token and return it as its holder must give it; it cannot be shown again."""
        token_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        row = {
            "token_id": token_id,
            "tenant": tenant,
            "scopes": ",".join(sorted(scopes)),
            "digest": _digest(secret),
            "expires": expires,
        }
        with self._engine.begin() as connection:
            connection.execute(tokens.insert().values(row))
        return f"lore_{token_id}_{secret}"

    def all(self) -> list[Token]:
        """Return all tokens."""
        with self._engine.connect() as connection:
            return [_token(row) for row in connection.execute(sql.select(tokens).order_by(tokens.c.token_id))]

    def find(self, presented: str) -> Token | None:
        """Return the token that a request presents, or None if it is none or has expired."""
        parts = presented.split("_", 2)
        if len(parts) != 3 or parts[0] != "lore":
            return None
        row = self._row(parts[1])
        # An unknown id takes as long as a wrong secret.
        if not hmac.compare_digest(_digest(parts[2]), row.digest if row is not None else bytes(32)) or row is None:
            return None
        return None if row.expires is not None and row.expires < time.time() else _token(row)

    def rotate(self, token_id: str, end: float) -> str | None:
        """Make a token in place of a valid one, which ends at `end`; None if there is no valid one of this id."""
        row = self._row(token_id)
        if row is None or (row.expires is not None and row.expires < time.time()):
            return None
        old = _token(row)
        self.expire(token_id, end if old.expires is None else min(end, old.expires))
        return self.create(old.tenant, old.scopes, old.expires)

    def expire(self, token_id: str, end: float) -> Token | None:
        """Let a token end at a time, in seconds since 1970; None if there is none of this id."""
        with self._engine.begin() as connection:
            connection.execute(tokens.update().where(tokens.c.token_id == token_id).values(expires=end))
            row = connection.execute(sql.select(tokens).where(tokens.c.token_id == token_id)).first()
        return None if row is None else _token(row)

    def _row(self, token_id: str) -> Any:
        with self._engine.connect() as connection:
            return connection.execute(sql.select(tokens).where(tokens.c.token_id == token_id)).first()


def _digest(secret: str) -> bytes:
    return sha256(secret.encode()).digest()


def _token(row: Any) -> Token:
    return Token(row.token_id, row.tenant, frozenset(row.scopes.split(",")), row.expires)
