"""The tables of the database, and what every store of them needs."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from lore.errors import MissingExtra

try:
    import sqlalchemy as sql
except ImportError:  # pragma: no cover - the extra is installed wherever the tests run
    raise MissingExtra("sqlalchemy", "serve") from None

Value = TypeVar("Value")

_MAX_VALUES = 500  # in one list of a query

metadata = sql.MetaData()
number_type = sql.BigInteger().with_variant(sql.Integer, "sqlite")
events = sql.Table(
    "events",
    metadata,
    sql.Column("number", number_type, primary_key=True, autoincrement=True),
    sql.Column("tenant", sql.Text, nullable=False),
    sql.Column("event_id", sql.Text, nullable=False),
    sql.Column("user_id", sql.Text, nullable=False),
    sql.Column("chosen_key", sql.LargeBinary, nullable=False),
    sql.Column("rejected_key", sql.LargeBinary, nullable=False),
    sql.Column("content", sql.Text, nullable=False),
    sql.Column("received", sql.Float, nullable=False),
    sql.UniqueConstraint("tenant", "event_id"),
    sql.Index("events_of_user", "tenant", "user_id", "number"),
    sql.Index("events_by_chosen", "chosen_key"),
    sql.Index("events_by_rejected", "rejected_key"),
    sqlite_autoincrement=True,
)
vectors = sql.Table(
    "vectors",
    metadata,
    sql.Column("key", sql.LargeBinary, primary_key=True),
    sql.Column("vector", sql.LargeBinary, nullable=False),
)
erased = sql.Table(
    "erased",
    metadata,
    sql.Column("user_key", sql.Text, primary_key=True),
    sql.Column("receipt", sql.Text, nullable=False),
    sql.Column("at", sql.Float, nullable=False),
)
tokens = sql.Table(
    "tokens",
    metadata,
    sql.Column("token_id", sql.Text, primary_key=True),
    sql.Column("tenant", sql.Text, nullable=False),
    sql.Column("scopes", sql.Text, nullable=False),
    sql.Column("digest", sql.LargeBinary, nullable=False),
    sql.Column("expires", sql.Float, nullable=True),
)
settings = sql.Table(
    "notes",  # its name in all databases since the first
    metadata,
    sql.Column("name", sql.Text, primary_key=True),
    sql.Column("value", sql.Text, nullable=False),
)
models = sql.Table(
    "models",
    metadata,
    sql.Column("version", sql.Text, primary_key=True),
    sql.Column("config", sql.Text, nullable=False),
    sql.Column("tensors", sql.LargeBinary, nullable=False),
    sql.Column("since", number_type, nullable=False),
    sql.Column("added", sql.Float, nullable=False),
)


def slices(values: Sequence[Value]) -> Iterator[Sequence[Value]]:
    """Yield values in slices that fit into one list of a query."""
    return (values[start : start + _MAX_VALUES] for start in range(0, len(values), _MAX_VALUES))
