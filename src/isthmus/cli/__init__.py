"""The command line, one file per noun. `main` turns every error into one line and a hint; a traceback is a bug."""

import os
import sys
from collections.abc import Sequence
from typing import Final

from cyclopts import App, CycloptsError, UnusedCliTokensError

from isthmus import __version__
from isthmus.cli import (
    alias,
    audit,
    bandwidth,
    bridge,
    delivery,
    demo,
    device,
    directory,
    doctor,
    echo,
    egress,
    grant,
    group,
    logs,
    provider,
    queue,
    router,
    sessions,
    site,
)
from isthmus.errors import IsthmusError, OperatorError

_FAILED: Final = 1
_USAGE: Final = 2
_BUG: Final = 70  # EX_SOFTWARE
_INTERRUPTED: Final = 130

app = App(
    name="isthmus",
    help="""Joins the DICOM networks of institutions: their devices reach each other through clouds that read nothing.

    Each command explains itself with --help. `isthmus demo` shows everything on this machine.
    """,
    version=__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)

# These modules are light: what is heavy they import inside their functions.
for _noun in (bridge, router, site, device, grant, alias, delivery, group, queue, bandwidth, egress, provider):
    app.command(_noun.app)
for _command in (demo.demo, directory.directory, echo.echo, sessions.sessions, audit.audit, doctor.doctor):
    app.command(_command)


def main() -> None:
    """Run the command that was typed and end the process with its exit status."""
    logs.configure()  # a command that works on a stopped part logs too; standard output is for its answer
    sys.exit(run(sys.argv[1:]))


def run(tokens: Sequence[str]) -> int:
    """Run a command; return its exit status: 0, 1 it could not be done, 2 it was not understood, 70 a bug here."""
    try:
        result = app(list(tokens), exit_on_error=False, print_error=False)
    except UnusedCliTokensError as error:
        words = " ".join(error.unused_tokens or ())
        return _say(f"too many words: {words}", hint=f"isthmus {_typed_nouns(tokens)}--help", status=_USAGE)
    except CycloptsError as error:
        return _say(str(error).splitlines()[0], hint=f"isthmus {_typed_nouns(tokens)}--help", status=_USAGE)
    except IsthmusError as error:
        asked = f"isthmus {_typed_nouns(tokens)}--help" if isinstance(error, OperatorError) else ""
        return _say(str(error), hint=error.hint or asked, status=_FAILED)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read our output has enough
        return 0
    except PermissionError as error:
        hint = "run it as the user whose data folder that is, or name another with --data DIR"
        return _say(f"{error.strerror}{f': {error.filename}' if error.filename else ''}", hint=hint, status=_FAILED)
    except OSError as error:
        return _say(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", status=_FAILED)
    except Exception as error:
        if os.environ.get("ISTHMUS_DEBUG"):
            raise
        hint = "this is a bug: run it again with ISTHMUS_DEBUG=1 and report what it prints"
        return _say(f"{type(error).__name__}: {error}", hint=hint, status=_BUG)
    return result if isinstance(result, int) else 0


def _say(message: str, *, hint: str = "", status: int) -> int:
    print("isthmus:", " ".join(message.split()), file=sys.stderr)
    if hint:
        print("  hint:", " ".join(hint.split()), file=sys.stderr)
    return status


def _typed_nouns(tokens: Sequence[str]) -> str:
    """Return the words before the first option, as far as they are commands, each with a space behind it."""
    known = app
    words = ""
    for token in tokens:
        if token.startswith("-") or token not in known:
            break
        words += f"{token} "
        known = known[token]
    return words
