"""The table of signed documents."""

from sqlalchemy import BigInteger, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from isthmus.bridge.database import Base


class DocumentRow(Base):
    """The newest document of a kind by a Router; `to_site` is empty unless it is a statement."""

    __tablename__ = "documents"

    router_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(64), primary_key=True)
    to_site: Mapped[str] = mapped_column(String(63), primary_key=True)
    payload: Mapped[bytes] = mapped_column(LargeBinary)
    signature: Mapped[bytes] = mapped_column(LargeBinary)
    published: Mapped[int] = mapped_column(BigInteger)
    changed: Mapped[int] = mapped_column(BigInteger, index=True, server_default="0")
