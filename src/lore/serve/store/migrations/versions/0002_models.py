"""Models that are served, and those that were or may be."""

import sqlalchemy as sql
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "models",
        sql.Column("version", sql.Text, primary_key=True),
        sql.Column("config", sql.Text, nullable=False),
        sql.Column("tensors", sql.LargeBinary, nullable=False),
        sql.Column("since", sql.BigInteger().with_variant(sql.Integer, "sqlite"), nullable=False),
        sql.Column("added", sql.Float, nullable=False),
    )
