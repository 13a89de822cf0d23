"""Settings of the database by name, its secret among them."""

import hmac
import secrets
from hashlib import sha256

import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError

from lore.serve.store.tables import settings


class SettingStore:
    """Texts by name, the same for every process that has the database open."""

    def __init__(self, engine: sql.Engine) -> None:
        self._engine = engine
        self._secret = self.get_or_set("secret", secrets.token_hex(32)).encode()

    def get_or_set(self, name: str, value: str) -> str:
        """Return the value of a name; if it has none, this one becomes its value."""
        try:
            return self._get_or_set(name, value)
        except IntegrityError:  # another process gave it one just now
            return self._get_or_set(name, value)

    def _get_or_set(self, name: str, value: str) -> str:
        with self._engine.begin() as connection:
            existing: str | None = connection.execute(
                sql.select(settings.c.value).where(settings.c.name == name)
            ).scalar()
            if existing is None:
                connection.execute(settings.insert().values(name=name, value=value))
        return value if existing is None else existing

    def set(self, name: str, value: str) -> None:
        """Give a name another value."""
        with self._engine.begin() as connection:
            connection.execute(settings.update().where(settings.c.name == name).values(value=value))

    def digest(self, text: str) -> str:
        """Return a keyed hash: it says whether two texts are equal, and nothing of them without the secret."""
        return hmac.new(self._secret, text.encode(), sha256).hexdigest()
