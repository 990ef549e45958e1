"""`isthmus demo`."""

from typing import Annotated

from cyclopts import Parameter


def demo(*, once: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Start a Bridge, two Routers and real DICOM devices on this machine, and show what they do together.

    Nothing is needed beside this package: no root, no Internet. Afterwards it stays up and says which AE title, host
    and port to type into a viewer of your own, until Ctrl-C. Everything lives in one temporary folder.

    ```
    isthmus demo
    isthmus demo --once
    ```

    Args:
        once: stop after the last step; the exit status is 0 only if every step succeeded.
    """
    from isthmus.demo.run import run_demo

    return run_demo(once=once)
