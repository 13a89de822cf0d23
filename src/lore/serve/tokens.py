"""`lore token`: who may use a server."""

import time
from collections.abc import Sequence

from lore.errors import ConfigError
from lore.serve.database import Database
from lore.users import SCOPES, Token, UserStore

_DAY, _MINUTE = 86_400.0, 60.0


def change_tokens(
    url: str,
    create: str | None,
    scopes: Sequence[str],
    days: float | None,
    rotate: str | None,
    overlap: float,
    revoke: str | None,
) -> list[str]:
    """Make, rotate or revoke a token, or list them; lines to show.

    Args:
        url: of the database, which a server may have open.
        create: the tenant to make one for.
        scopes: of a new one.
        days: until a new one expires.
        rotate: the id of one to be replaced.
        overlap: minutes for which that goes on.
        revoke: the id of one to be ended now.

    Raises:
        ConfigError: a scope or an id is not known.
    """
    if unknown := set(scopes) - SCOPES:
        raise ConfigError(f"`scopes` must be of {', '.join(sorted(SCOPES))}, got {', '.join(sorted(unknown))}")
    database = Database(url, alone=False)
    try:
        if create is not None:
            expires = None if days is None else time.time() + days * _DAY
            return [
                database.store.create_token(create, scopes, expires),
                "(shown once: keep it where secrets are kept)",
            ]
        if rotate is not None:
            old = _expired(database.store, rotate, time.time() + overlap * _MINUTE)
            return [
                database.store.create_token(old.tenant, old.scopes),
                f"(shown once; {rotate} goes on for {overlap:g} minutes)",
            ]
        if revoke is not None:
            _expired(database.store, revoke, time.time() - 1)
            return [f"{revoke} is revoked"]
        return [_line(token) for token in database.store.tokens()] or ["there are no tokens; make one with --create"]
    finally:
        database.close()


def _expired(store: UserStore, token_id: str, at: float) -> Token:
    token = store.expire_token(token_id, at)
    if token is None:
        raise ConfigError(f"there is no token {token_id!r}; `lore token RUN` lists them")
    return token


def _line(token: Token) -> str:
    until = "" if token.expires is None else f", until {time.strftime('%Y-%m-%d %H:%M', time.localtime(token.expires))}"
    return f"{token.token_id}: {token.tenant}, {','.join(sorted(token.scopes))}{until}"
