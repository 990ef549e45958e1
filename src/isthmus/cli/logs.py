"""Where the logs of a running part go: standard error, readable on a terminal, JSON lines anywhere else."""

import logging
import sys
from typing import TextIO

import structlog


def configure(stream: TextIO | None = None, *, verbose: bool = False) -> None:
    """Send structured logs to `stream` (standard error). Tracebacks come without the values of variables.

    Values are left out because a variable may hold what a device sent, and logs carry no patient data.
    """
    out = stream or sys.stderr
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if out.isatty():
        last: list[structlog.typing.Processor] = [
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        ]
    else:
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    level = logging.DEBUG if verbose else logging.INFO
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(stream=out, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", force=True)
