"""Tables of cloud pairs and of what was asked of them."""

from sqlalchemy import BigInteger, Boolean, Double, Integer, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from isthmus.bridge.database import Base


class ProviderRow(Base):
    """A pair of cloud services. `sealed` holds its secrets, encrypted; a removed pair stays, without them."""

    __tablename__ = "providers"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    signalling: Mapped[str] = mapped_column(Text)
    blobstore: Mapped[str] = mapped_column(Text)
    priority: Mapped[int] = mapped_column(Integer)
    off: Mapped[bool] = mapped_column(Boolean)
    sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    ca: Mapped[str] = mapped_column(Text)
    prices: Mapped[str] = mapped_column(Text)
    added: Mapped[int] = mapped_column(BigInteger)
    removed: Mapped[int | None] = mapped_column(BigInteger)


class UsageRow(Base):
    """What one site asked of a pair in a month (UTC), requests of one kind together."""

    __tablename__ = "provider_usage"

    month: Mapped[str] = mapped_column(String(7), primary_key=True)
    site: Mapped[str] = mapped_column(String(63), primary_key=True)
    provider: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger)
    up: Mapped[int] = mapped_column(BigInteger)
    down: Mapped[int] = mapped_column(BigInteger)


class CountedRow(Base):
    """What of a Router's cumulative reports is in the usage already: JSON, by run."""

    __tablename__ = "provider_counted"

    router_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    runs: Mapped[str] = mapped_column(Text)


class StockRow(Base):
    """An estimate of what lies in a pair's blobstore: bytes at an instant, and byte-days of a month so far."""

    __tablename__ = "provider_stock"

    provider: Mapped[str] = mapped_column(String(32), primary_key=True)
    month: Mapped[str] = mapped_column(String(7), primary_key=True)
    held: Mapped[int] = mapped_column(BigInteger)
    counted: Mapped[int] = mapped_column(BigInteger)
    byte_days: Mapped[float] = mapped_column(Double)
