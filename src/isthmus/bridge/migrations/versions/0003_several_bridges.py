"""What several Bridges of one network agree by: a version of the network, and in which one a row changed last."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables and columns."""
    network = op.create_table(
        "network",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("identity", sa.LargeBinary),
        sa.Column("blobs", sa.String(64)),
        sa.PrimaryKeyConstraint("id", name="pk_network"),
    )
    op.bulk_insert(network, [{"id": 1, "version": 0, "identity": None, "blobs": None}])
    op.create_table(
        "shared_files",
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_shared_files"),
    )
    unlogged = ["UNLOGGED"] if op.get_bind().dialect.name == "postgresql" else []
    op.create_table(
        "bus_bodies",
        sa.Column("id", sa.LargeBinary(16), nullable=False),
        sa.Column("made", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_bus_bodies"),
        prefixes=unlogged,
    )
    if unlogged:
        op.execute("ALTER TABLE bus_bodies ALTER COLUMN body SET STORAGE EXTERNAL")  # sealed, so never compressible
    for name in ("sites", "documents"):
        with op.batch_alter_table(name) as table:
            table.add_column(sa.Column("changed", sa.BigInteger, nullable=False, server_default="0"))
        op.create_index(f"ix_{name}_changed", name, ["changed"])


def downgrade() -> None:
    """Undo the change."""
    for name in ("documents", "sites"):
        op.drop_index(f"ix_{name}_changed", name)
        with op.batch_alter_table(name) as table:
            table.drop_column("changed")
    for name in ("bus_bodies", "shared_files", "network"):
        op.drop_table(name)
