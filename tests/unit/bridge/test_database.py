"""The database: its schema is the models', and its settings survive a power cut."""

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from isthmus.bridge.database import Base, Database, to_micros, to_seconds
from isthmus.errors import OperatorError


async def test_the_migrations_make_the_tables_that_the_code_reads(tmp_path: Path) -> None:
    database = Database.in_folder(tmp_path)
    await database.open()
    async with database.transaction() as session:
        connection = await session.connection()
        differences = await connection.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync), Base.metadata)
        )
    await database.close()
    assert differences == []


async def test_a_commit_is_on_disk_and_nobody_else_reads_the_file(tmp_path: Path) -> None:
    database = Database.in_folder(tmp_path)
    await database.open()
    async with database.transaction() as session:
        settings = [
            (await session.execute(text(f"PRAGMA {name}"))).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    await database.close()
    assert settings == ["delete", 2, 1]
    assert (tmp_path / "bridge.db").stat().st_mode & 0o077 == 0


async def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    database = Database.in_folder(tmp_path)
    await database.open()

    async def change_ones_mind() -> None:
        async with database.transaction() as session:
            await session.execute(text("INSERT INTO sites VALUES ('r', 's', x'00', '1', 1, NULL, 1)"))
            raise RuntimeError("changed my mind")

    with pytest.raises(RuntimeError):
        await change_ones_mind()
    async with database.transaction() as session:
        assert (await session.execute(text("SELECT count(*) FROM sites"))).scalar_one() == 0
    await database.close()


async def test_a_damaged_file_is_refused_at_start(tmp_path: Path) -> None:
    (tmp_path / "bridge.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)
    database = Database.in_folder(tmp_path)
    with pytest.raises(OperatorError, match="database") as refused:
        await database.open()
    assert "backup" in refused.value.hint
    assert "--database-url" in refused.value.hint
    await database.close()


def test_times_keep_their_microseconds() -> None:
    assert to_seconds(to_micros(1_800_000_000.123456)) == 1_800_000_000.123456
