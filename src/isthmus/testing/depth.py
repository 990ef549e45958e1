"""How deep the randomised tests dig: a little on every push, far in the nightly run."""

import os


def count(*, push: int, nightly: int) -> int:
    """Return how many examples or seeds to try, by the environment variable ISTHMUS_TEST_DEPTH (push or nightly)."""
    return nightly if os.environ.get("ISTHMUS_TEST_DEPTH") == "nightly" else push
