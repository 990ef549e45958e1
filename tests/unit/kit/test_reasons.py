import errno
import socket
import ssl

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from isthmus.kit.reasons import in_words

REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 9)")
KEY = ConnectionKey("bridge", 443, True, True, None, None, None)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (REFUSED, "Connection refused"),
        (aiohttp.ClientConnectorError(KEY, REFUSED), "Connection refused"),
        (
            OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 9), [Errno 113] No route"),
            "Connection refused",
        ),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(-2, "Name or service not known")), "Name or service"),
        (TimeoutError(), "no answer in time"),
        (aiohttp.ServerTimeoutError(), "no answer in time"),
        (aiohttp.ServerDisconnectedError(), "the connection was closed"),
        (ConnectionResetError(), "the connection was closed"),
        (ConnectionResetError(errno.ECONNRESET, "x"), "Connection reset by peer"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "wrong version number"),
    ],
)
def test_a_failed_connection_is_told_in_words_and_never_by_the_name_of_a_class(error: Exception, words: str) -> None:
    told = in_words(error)
    assert words in told
    assert "Error" not in told
    assert type(error).__name__ not in told
