"""Events, vectors, erasures, tokens and notes."""

import sqlalchemy as sql
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    number = sql.BigInteger().with_variant(sql.Integer, "sqlite")
    op.create_table(
        "events",
        sql.Column("number", number, primary_key=True, autoincrement=True),
        sql.Column("tenant", sql.Text, nullable=False),
        sql.Column("event_id", sql.Text, nullable=False),
        sql.Column("user_id", sql.Text, nullable=False),
        sql.Column("chosen_key", sql.LargeBinary, nullable=False),
        sql.Column("rejected_key", sql.LargeBinary, nullable=False),
        sql.Column("content", sql.Text, nullable=False),
        sql.Column("received", sql.Float, nullable=False),
        sql.UniqueConstraint("tenant", "event_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("events_of_user", "events", ["tenant", "user_id", "number"])
    op.create_index("events_by_chosen", "events", ["chosen_key"])
    op.create_index("events_by_rejected", "events", ["rejected_key"])
    op.create_table(
        "vectors",
        sql.Column("key", sql.LargeBinary, primary_key=True),
        sql.Column("vector", sql.LargeBinary, nullable=False),
    )
    op.create_table(
        "erased",
        sql.Column("user_key", sql.Text, primary_key=True),
        sql.Column("receipt", sql.Text, nullable=False),
        sql.Column("at", sql.Float, nullable=False),
    )
    op.create_table(
        "tokens",
        sql.Column("token_id", sql.Text, primary_key=True),
        sql.Column("tenant", sql.Text, nullable=False),
        sql.Column("scopes", sql.Text, nullable=False),
        sql.Column("digest", sql.LargeBinary, nullable=False),
        sql.Column("expires", sql.Float, nullable=True),
    )
    op.create_table(
        "notes", sql.Column("name", sql.Text, primary_key=True), sql.Column("value", sql.Text, nullable=False)
    )
