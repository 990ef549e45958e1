"""Measuring within bounds, without sockets."""

import pytest

from isthmus.bridge.probe.service import BUDGET_BYTES, BYTES_PER_SECOND, Probe
from isthmus.errors import Problem
from isthmus.testing.clock import FakeClock


def test_the_budget_fills_with_time_and_never_above_its_size() -> None:
    clock = FakeClock()
    probe = Probe(clock)
    probe.take(BUDGET_BYTES)
    clock.advance(2)
    probe.take(2 * BYTES_PER_SECOND)
    with pytest.raises(Problem) as refused:
        probe.take(1)
    assert refused.value.status == 429
    clock.advance(1_000_000)
    probe.take(BUDGET_BYTES)
    with pytest.raises(Problem):
        probe.take(1)


def test_a_turn_that_fails_is_over() -> None:
    probe = Probe(FakeClock())
    with pytest.raises(ZeroDivisionError), probe.turn(1):
        raise ZeroDivisionError
    assert probe.running == 0
