"""The first schema: sites, invites, documents, session audit."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make all tables."""
    op.create_table(
        "sites",
        sa.Column("router_id", sa.String(64), nullable=False),
        sa.Column("site", sa.String(63), nullable=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("enrolled", sa.BigInteger, nullable=False),
        sa.Column("revoked", sa.BigInteger),
        sa.PrimaryKeyConstraint("router_id", name="pk_sites"),
    )
    op.create_index("ix_sites_site", "sites", ["site"])
    op.create_table(
        "invites",
        sa.Column("secret_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("site", sa.String(63), nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("withdrawn", sa.BigInteger),
        sa.Column("used", sa.BigInteger),
        sa.Column("used_by", sa.String(64)),
        sa.PrimaryKeyConstraint("secret_hash", name="pk_invites"),
    )
    op.create_index("ix_invites_site", "invites", ["site"])
    op.create_table(
        "documents",
        sa.Column("router_id", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("to_site", sa.String(63), nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
        sa.Column("published", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("router_id", "kind", "to_site", name="pk_documents"),
    )
    op.create_table(
        "session_audit",
        sa.Column("session_id", sa.LargeBinary(16), nullable=False),
        sa.Column("from_site", sa.String(63), nullable=False),
        sa.Column("to_site", sa.String(63), nullable=False),
        sa.Column("calling", sa.String(64), nullable=False),
        sa.Column("called", sa.String(64), nullable=False),
        sa.Column("started", sa.BigInteger, nullable=False),
        sa.Column("ended", sa.BigInteger),
        sa.Column("outcome", sa.String(64), nullable=False),
        sa.Column("bytes_out", sa.BigInteger, nullable=False),
        sa.Column("bytes_in", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("session_id", name="pk_session_audit"),
    )
    op.create_index("ix_session_audit_started", "session_audit", ["started"])


def downgrade() -> None:
    """Drop all tables."""
    for table in ("session_audit", "documents", "invites", "sites"):
        op.drop_table(table)
