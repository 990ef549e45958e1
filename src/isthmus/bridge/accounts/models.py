"""Tables of sites and invites."""

from sqlalchemy import BigInteger, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from isthmus.bridge.database import Base


class SiteRow(Base):
    """A Router that has enrolled for a site. Revoked ones stay, so that their keys never come back."""

    __tablename__ = "sites"

    router_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    site: Mapped[str] = mapped_column(String(63), index=True)
    public_key: Mapped[bytes] = mapped_column(LargeBinary)
    version: Mapped[str] = mapped_column(String(64))
    enrolled: Mapped[int] = mapped_column(BigInteger)
    revoked: Mapped[int | None] = mapped_column(BigInteger)
    changed: Mapped[int] = mapped_column(BigInteger, index=True, server_default="0")


class InviteRow(Base):
    """An invite, of whose secret only a hash is kept."""

    __tablename__ = "invites"

    secret_hash: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    site: Mapped[str] = mapped_column(String(63), index=True)
    created: Mapped[int] = mapped_column(BigInteger)
    expires: Mapped[int] = mapped_column(BigInteger)
    withdrawn: Mapped[int | None] = mapped_column(BigInteger)
    used: Mapped[int | None] = mapped_column(BigInteger)
    used_by: Mapped[str | None] = mapped_column(String(64))
