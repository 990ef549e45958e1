"""Why a connection failed, in words that an operator can look up."""

import os
import re
import ssl

_INSIDE = ("os_error", "certificate_error")  # where aiohttp keeps what was really wrong


def in_words(error: BaseException) -> str:
    """Return why a connection could not be made or was lost: never the name of a class, never nothing."""
    for name in _INSIDE:
        if isinstance(inner := getattr(error, name, None), BaseException):
            return in_words(inner)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.CertificateError | ssl.SSLError):
        return f"TLS failed: {getattr(error, 'reason', None) or error}".replace("_", " ")
    if isinstance(error, OSError):
        number = error.errno or _first_number(str(error))
        if number and number > 0:
            return os.strerror(number)
        if error.strerror:
            return str(error.strerror)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return "the connection was closed"


def _first_number(text: str) -> int:
    """Return the first error number where several addresses were tried and each failed in its own way."""
    found = re.search(r"\[Errno (\d+)\]", text)
    return int(found[1]) if found else 0
