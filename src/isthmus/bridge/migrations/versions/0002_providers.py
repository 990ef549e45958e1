"""Cloud pairs, what was asked of them, and which pair a session used."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "providers",
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("signalling", sa.Text, nullable=False),
        sa.Column("blobstore", sa.Text, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("off", sa.Boolean, nullable=False),
        sa.Column("sealed", sa.LargeBinary),
        sa.Column("ca", sa.Text, nullable=False),
        sa.Column("prices", sa.Text, nullable=False),
        sa.Column("added", sa.BigInteger, nullable=False),
        sa.Column("removed", sa.BigInteger),
        sa.PrimaryKeyConstraint("name", name="pk_providers"),
    )
    op.create_table(
        "provider_usage",
        sa.Column("month", sa.String(7), nullable=False),
        sa.Column("site", sa.String(63), nullable=False),
        sa.Column("provider", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("up", sa.BigInteger, nullable=False),
        sa.Column("down", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("month", "site", "provider", "kind", name="pk_provider_usage"),
    )
    op.create_table(
        "provider_counted",
        sa.Column("router_id", sa.String(64), nullable=False),
        sa.Column("runs", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("router_id", name="pk_provider_counted"),
    )
    op.create_table(
        "provider_stock",
        sa.Column("provider", sa.String(32), nullable=False),
        sa.Column("month", sa.String(7), nullable=False),
        sa.Column("held", sa.BigInteger, nullable=False),
        sa.Column("counted", sa.BigInteger, nullable=False),
        sa.Column("byte_days", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("provider", "month", name="pk_provider_stock"),
    )
    with op.batch_alter_table("session_audit") as table:
        table.add_column(sa.Column("provider", sa.String(32), nullable=False, server_default=""))


def downgrade() -> None:
    """Undo the change."""
    with op.batch_alter_table("session_audit") as table:
        table.drop_column("provider")
    for name in ("provider_stock", "provider_counted", "provider_usage", "providers"):
        op.drop_table(name)
