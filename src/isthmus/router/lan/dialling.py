"""Dialling local devices: plain DICOM or DICOM TLS (PS3.15 annex B, BCP 195)."""

import asyncio
import ssl
from typing import Final

from isthmus.errors import AssociationRefused, OperatorError
from isthmus.kit.reasons import in_words
from isthmus.router.lan.connection import DeviceConnection
from isthmus.router.routing.records import DeviceTls, LocalDevice

DIAL_SECONDS: Final = 3.0
"""How long TCP (and TLS) to a device may take: short enough that the caller hears within its own 5 s."""


def unreachable(device: LocalDevice, why: str) -> AssociationRefused:
    """Return the transient refusal for a device that does not answer: modalities try again after it."""
    return AssociationRefused(
        f"{device.title} at {device.host}:{device.port} is not reachable: {why}",
        result=2,
        source=3,
        reason=1,
        hint=f"is it switched on, and is {device.host}:{device.port} right? isthmus device show {device.network_title}",
    )


async def dial(device: LocalDevice, connection: DeviceConnection) -> None:
    """Connect `connection` to the device. Raises AssociationRefused 2/3/1 if that takes over DIAL_SECONDS or fails."""
    if device.port is None:
        raise AssociationRefused(
            f"{device.title} has no port: it only calls",
            result=1,
            source=1,
            reason=7,
            hint=f"register it with a port: isthmus device add {device.title}@{device.host}:PORT",
        )
    tls = device.options.tls
    try:
        context = tls_context(tls) if tls is not None and tls.to_device else None
    except OperatorError as error:
        raise unreachable(device, str(error)) from error
    try:
        async with asyncio.timeout(DIAL_SECONDS):
            await asyncio.get_running_loop().create_connection(
                lambda: connection,
                device.host,
                device.port,
                ssl=context,
                server_hostname=device.host if context is not None else None,
            )
    except TimeoutError as error:
        raise unreachable(device, f"no answer within {DIAL_SECONDS:g} s") from error
    except ssl.SSLError as error:
        raise unreachable(device, f"TLS failed: {error.reason}") from error
    except OSError as error:
        raise unreachable(device, in_words(error)) from error


def tls_context(tls: DeviceTls) -> ssl.SSLContext:
    """Return the context for calling a device. Raises OperatorError naming what cannot be used."""
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=tls.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = tls.check_host_name
        if tls.certificate:
            context.load_cert_chain(tls.certificate, tls.key)
    except (OSError, ssl.SSLError) as error:
        raise OperatorError(f"cannot use the TLS files for this device: {error}") from error
    return context
