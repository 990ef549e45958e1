"""Everything that differs between operating systems, in this one file. All else is the same on each of them."""

import asyncio
import contextlib
import ctypes
import errno
import os
import select
import socket
import struct
import sys
from pathlib import Path
from typing import NamedTuple

if sys.platform != "win32":
    import fcntl
    import resource
else:  # pragma: no cover - exercised on Windows only
    import msvcrt

_M_TRIM_THRESHOLD = -1  # malloc.h of glibc
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
# linux/tcp.h, struct tcp_info: tcpi_unacked, _bytes_acked, _notsent_bytes, _bytes_sent, _bytes_retrans
_TCP_INFO = struct.Struct("=24xI92xQ16xI52xQQ")
_TCP_INFO_BYTES = _TCP_INFO.size
_SO_MAX_PACING_RATE = 47  # asm-generic/socket.h
_NO_LIMIT = 2**64 - 1


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return the quickest event loop there is here: uvloop where it is installed, else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def default_data_folder(part: str) -> Path:
    """Return where `part` ("router" or "bridge") keeps its data if nobody says otherwise."""
    if sys.platform == "win32":
        return Path(os.environ.get("PROGRAMDATA", r"C:\ProgramData")) / "Isthmus" / part
    if os.geteuid() == 0:
        return Path("/var/lib/isthmus") / part
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "Isthmus" / part
    return Path(os.environ.get("XDG_DATA_HOME", str(Path.home() / ".local" / "share"))) / "isthmus" / part


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` durable. Windows does that by itself and has no call for it."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_data(handle: int) -> None:
    """Make the content of an open file, and its length, durable. Raises OSError; the file is then not to be trusted."""
    if sys.platform == "darwin":  # where fsync leaves the content in the cache of the disk
        fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
    elif sys.platform == "win32":
        os.fsync(handle)
    else:
        os.fdatasync(handle)


def open_spool_file(path: Path, *, create: bool, write: bool) -> int:
    """Open a file of bytes, which only its owner may read; `create`: it is not there yet. Raises OSError."""
    flags = (os.O_RDWR if write else os.O_RDONLY) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    return os.open(path, flags | (os.O_CREAT | os.O_EXCL if create else 0), 0o600)


def is_private(path: Path) -> bool:
    """Return whether nobody but its owner may read a file. Windows has other means to say so: there it is taken as so.

    Raises OSError.
    """
    return sys.platform == "win32" or path.stat().st_mode & 0o077 == 0


def write_at(handle: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`. On Windows one thread at a time may use the handle. Raises OSError."""
    view = memoryview(data)
    while view:
        if sys.platform == "win32":
            os.lseek(handle, offset, os.SEEK_SET)
            written = os.write(handle, view)
        else:
            written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written


def try_lock(handle: int) -> bool:
    """Take an exclusive lock on an open file until the process ends; False if another process has it."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EACCES, errno.EAGAIN, errno.EDEADLK}:
            return False
        raise
    return True


def raise_open_file_limit() -> int:
    """Raise the limit of open descriptors as far as it goes without privileges; return it."""
    if sys.platform == "win32":
        return 8192
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else 65536
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def keep_freed_memory() -> None:
    """Let the allocator of glibc keep what the data path frees for its next segment; elsewhere do nothing.

    Segments come and go at 256 KiB. By default each is given back to the system and faulted in again page by page,
    which took a third of a Router's time (bench/live). Up to 32 MiB stay with the process instead.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library, which has its own ways
        return
    for option, value in ((_M_TRIM_THRESHOLD, 32 << 20), (_M_TOP_PAD, 4 << 20), (_M_MMAP_THRESHOLD, 16 << 20)):
        mallopt(option, value)


def tune_device_socket(sock: socket.socket) -> None:
    """Set what every TCP connection to a device wants: no Nagle, and keep-alive probes after a minute of silence."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def acknowledge_at_once(sock: socket.socket) -> None:
    """Ask for an immediate TCP ACK of what was just read, where the system can.

    Devices that write a PDU in two pieces with Nagle on wait for our delayed ACK, 40 ms an image. The system forgets
    the option after a while, so it is set after every read.
    """
    if hasattr(socket, "TCP_QUICKACK"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def wake_reader_at(sock: socket.socket, least: int) -> None:
    """Have whoever waits to read woken when that many bytes have come, or the end, where the system can."""
    if hasattr(socket, "SO_RCVLOWAT"):
        with contextlib.suppress(OSError):  # of a system that only knows the name
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)


class Sent(NamedTuple):
    """What went over a connection so far, in bytes: acknowledged, sent, of these sent again; and what waits to go."""

    acked: int
    sent: int
    again: int
    waiting: int


def sent_over(sock: socket.socket) -> Sent | None:
    """Return what a TCP connection has sent, where the system tells (Linux from 4.19 on: linux/tcp.h, tcp_info)."""
    if sys.platform != "linux":
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except OSError:  # it is closed, or no TCP
        return None
    if len(info) < _TCP_INFO_BYTES:
        return None
    unacked, acked, unsent, sent, again = _TCP_INFO.unpack(info)
    return Sent(acked, sent, again, unacked + unsent)


def limit_sending(sock: socket.socket, rate: int | None) -> None:
    """Have a connection send no more than so many bytes a second, where the system can; None: as fast as it goes."""
    if sys.platform == "linux":
        limit = _NO_LIMIT if rate is None else rate
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, limit.to_bytes(8, sys.byteorder))


def hung_up(sock: socket.socket) -> bool:
    """Return whether the other side has closed a connection that is not being read now."""
    if sys.platform == "win32" or not hasattr(select, "POLLRDHUP"):
        return False
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLRDHUP | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))


def reset_on_close(sock: socket.socket) -> None:
    """Make the coming close a TCP reset: nobody may take what follows for more of the stream."""
    linger = b"\x01\x00\x00\x00" if sys.platform == "win32" else b"\x01\x00\x00\x00\x00\x00\x00\x00"
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
