"""Opening the database of users' choices: SQLite in one file, or PostgreSQL; brought up to date first."""

from pathlib import Path
from typing import Any

import sqlalchemy as sql
from filelock import FileLock, Timeout
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from lore.errors import MissingExtra, StoreError, first_line
from lore.serve.store.store import UserStore

try:
    import alembic.command
    import alembic.config
    from alembic.util import CommandError
except ImportError:  # pragma: no cover - the extra is installed wherever the tests run
    raise MissingExtra("alembic", "serve") from None

_MIGRATIONS = Path(__file__).parent / "migrations"
_PATIENCE = 10_000  # milliseconds that a writer waits for another


class Database:
    """A store, and for SQLite the lock that keeps a second server out."""

    def __init__(self, url: str, *, alone: bool = True, begin: bool = True) -> None:
        """Open, make or migrate a database.

        Args:
            url: a SQLAlchemy URL, or the path of a SQLite file.
            alone: refuse a SQLite file that another server has open.
            begin: make a SQLite file that is not there.

        Raises:
            StoreError: it cannot be opened, is in use, belongs to a newer version, or was not begun.
        """
        if "://" not in url:
            url = f"sqlite:///{url}"
        if url.startswith("postgresql://"):
            url = url.replace("postgresql://", "postgresql+psycopg://", 1)
        try:
            parsed = sql.make_url(url)
        except ArgumentError:
            raise StoreError("`database` must be a path or a URL like postgresql://user@host/name") from None
        self.name = parsed.render_as_string(hide_password=True)
        if not begin and _is_sqlite(parsed) and not Path(parsed.database or "").exists():
            raise StoreError(f"{self.name}: is not there yet; begin it with `lore serve RUN`")
        self._lock = _locked(Path(parsed.database or ""), self.name) if alone and _is_sqlite(parsed) else None
        try:
            self._engine = sql.create_engine(parsed, pool_pre_ping=not _is_sqlite(parsed))
            if _is_sqlite(parsed):
                sql.event.listen(self._engine, "connect", _durable)
            self._migrate()
            self.store = UserStore(self._engine)
        except ModuleNotFoundError as error:
            self._release()
            raise MissingExtra(error.name or "psycopg", "postgres") from None
        except (SQLAlchemyError, OSError) as error:
            self._release()
            reason = first_line(getattr(error, "orig", None) or error)
            raise StoreError(f"{self.name}: cannot be opened ({reason}); give a database that can be written") from None

    def _migrate(self) -> None:
        config = alembic.config.Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        with self._engine.begin() as connection:
            config.attributes["connection"] = connection
            try:
                alembic.command.upgrade(config, "head")
            except CommandError:
                self._release()
                raise StoreError(
                    f"{self.name}: belongs to a newer version of LoRe; install that version, or give another `database`"
                ) from None

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def close(self) -> None:
        """Release the database."""
        self._engine.dispose()
        self._release()


def _is_sqlite(url: sql.URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _locked(path: Path, name: str) -> FileLock:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(path.name + ".lock"), thread_local=False)  # released by another thread
        lock.acquire(timeout=0)
    except Timeout:
        raise StoreError(f"{name}: another server has it open; stop that one, or use PostgreSQL for several") from None
    except OSError as error:
        raise StoreError(f"{name}: cannot be opened ({error.strerror}); give a place that can be written") from None
    return lock


def _durable(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA secure_delete=ON")
    connection.execute(f"PRAGMA busy_timeout={_PATIENCE}")
