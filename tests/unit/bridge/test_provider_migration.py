"""A database of a Bridge that knew no cloud pairs is taken over with what is in it."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, text

from isthmus.bridge import database as module
from isthmus.bridge.audit.service import Audit
from isthmus.bridge.database import Database


def _as_it_was(path: Path) -> None:
    """Make the first schema, with one session in its audit."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(module._MIGRATIONS))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(
            text("INSERT INTO session_audit VALUES (x'00', 'north', 'south', 'CT1', 'PACS', 1, 2, 'released', 3, 4)")
        )
    engine.dispose()


async def test_sessions_of_before_stay_in_the_audit_and_name_no_pair(tmp_path: Path) -> None:
    _as_it_was(tmp_path / "bridge.db")
    database = Database.in_folder(tmp_path)
    await database.open()
    (entry,) = await Audit(database).newest(10)
    await database.close()
    assert (entry.from_site, entry.outcome, entry.bytes_in, entry.provider) == ("north", "released", 4, "")
