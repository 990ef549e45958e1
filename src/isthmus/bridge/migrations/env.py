"""Alembic runs this file for every command; the connection is handed in by `isthmus.bridge.database`."""

from alembic import context

from isthmus.bridge.database import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
