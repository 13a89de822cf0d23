"""`lore token`: who may use a server."""

import time
from collections.abc import Sequence

from lore.errors import ConfigError
from lore.serve.database import Database
from lore.users import SCOPES, Token

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
    if create is not None and not create.strip():
        raise ConfigError("`create` must name a tenant, got nothing")
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
            token = database.store.rotate_token(rotate, time.time() + overlap * _MINUTE)
            if token is None:
                raise ConfigError(f"there is no token {rotate!r} that is valid; `lore token RUN` lists them")
            return [token, f"(shown once; {rotate} goes on for {overlap:g} minutes)"]
        if revoke is not None:
            if database.store.expire_token(revoke, time.time() - 1) is None:
                raise ConfigError(f"there is no token {revoke!r}; `lore token RUN` lists them")
            return [f"{revoke} is revoked"]
        return [_line(token) for token in database.store.tokens()] or ["there are no tokens; make one with --create"]
    finally:
        database.close()


def _line(token: Token) -> str:
    until = ""
    if token.expires is not None:
        ended = "ended" if token.expires < time.time() else "until"
        until = f", {ended} {time.strftime('%Y-%m-%d %H:%M', time.localtime(token.expires))}"
    return f"{token.token_id}: {token.tenant}, {','.join(sorted(token.scopes))}{until}"
