"""The table of sessions that were."""

from sqlalchemy import BigInteger, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from isthmus.bridge.database import Base


class SessionRow(Base):
    """One session: who, when, how it ended, how many bytes, over which cloud pair. No content and no key."""

    __tablename__ = "session_audit"

    session_id: Mapped[bytes] = mapped_column(LargeBinary(16), primary_key=True)
    from_site: Mapped[str] = mapped_column(String(63))
    to_site: Mapped[str] = mapped_column(String(63))
    calling: Mapped[str] = mapped_column(String(64))
    called: Mapped[str] = mapped_column(String(64))
    started: Mapped[int] = mapped_column(BigInteger, index=True)
    ended: Mapped[int | None] = mapped_column(BigInteger)
    outcome: Mapped[str] = mapped_column(String(64))
    bytes_out: Mapped[int] = mapped_column(BigInteger)
    bytes_in: Mapped[int] = mapped_column(BigInteger)
    provider: Mapped[str] = mapped_column(String(32), server_default="")
