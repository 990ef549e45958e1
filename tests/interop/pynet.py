"""pynetdicom's applications as devices. They run in threads; a test waits for them with `asyncio.to_thread`.

pynetdicom sometimes calls a rejected association aborted. What counts is the PDU that came: `Heard` keeps them all.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from pynetdicom import AE

from isthmus.testing.network import Network


class Heard:
    """The PDUs that an application received, by type and as they were on the wire."""

    def __init__(self) -> None:
        self.pdus: list[Any] = []

    def __call__(self, event: Any) -> None:
        """Take the event of a PDU."""
        self.pdus.append(event.pdu)

    @property
    def kinds(self) -> list[str]:
        """The names of the PDUs, without the data."""
        names = [type(pdu).__name__.removesuffix("_PDU") for pdu in self.pdus]
        return [name for name in names if name != "P_DATA_TF"]


@asynccontextmanager
async def accepting(
    contexts: Sequence[Any],
    handlers: Sequence[tuple[Any, ...]] = (),
    title: str = "PYNET",
    *,
    port: int = 0,
    **roles: bool,
) -> AsyncIterator[int]:
    """Run an application that accepts these abstract syntaxes, in pynetdicom's transfer syntaxes; yield its port.

    A context that is a tuple names the transfer syntaxes, too.
    """
    ae = AE(ae_title=title)
    for context in contexts:
        ae.add_supported_context(*context if isinstance(context, tuple) else (context,), **roles)
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=list(handlers))
    try:
        yield server.server_address[1]
    finally:
        await asyncio.to_thread(server.shutdown)


@contextmanager
def association(
    port: int, calling: str, called: str, contexts: Sequence[Any], handlers: Sequence[tuple[Any, ...]] = (), **more: Any
) -> Iterator[Any]:
    """Open an association, which must come about; release it at the end. For a thread of its own."""
    ae = AE(ae_title=calling)
    for context in contexts:
        ae.add_requested_context(*context) if isinstance(context, tuple) else ae.add_requested_context(context)
    one = ae.associate("127.0.0.1", port, ae_title=called, evt_handlers=list(handlers), **more)
    assert one.is_established, one
    try:
        yield one
    finally:
        if one.is_established:
            one.release()


async def of_north(
    network: Network, calling: str, called: str, contexts: Sequence[Any], work: Callable[[Any], Any], **more: Any
) -> Any:
    """Do `work` on an association that a device of north opens through the relay; return what it returns."""

    def whole() -> Any:
        with association(network.sites["north"].port, calling, called, contexts, **more) as one:
            return work(one)

    return await asyncio.to_thread(whole)
