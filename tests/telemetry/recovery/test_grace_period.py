"""After trouble the owners of leases have one lease period to renew them."""

import pytest

from telemetry.recovery.grace_period import GracePeriod


class Clocks:
    """A monotonic and a wall clock that a test sets."""

    def __init__(self) -> None:
        self.monotonic = self.wall = 100.0

    def __call__(self) -> tuple[float, float]:
        return self.monotonic, self.wall


def test_without_trouble_there_is_no_grace_period() -> None:
    clocks = Clocks()
    grace = GracePeriod(30, 5, clocks)
    for _ in range(10):
        clocks.monotonic += 5
        clocks.wall += 5
        assert not grace.tick()
        assert grace.is_over


@pytest.mark.parametrize("clock", ["monotonic", "wall"])
def test_a_process_that_was_frozen_gives_the_owners_a_lease_period(clock: str) -> None:
    clocks = Clocks()
    grace = GracePeriod(30, 5, clocks)
    setattr(clocks, clock, 120.0)
    assert grace.tick()
    assert not grace.is_over
    clocks.monotonic += 29.9
    assert not grace.is_over
    clocks.monotonic += 0.1
    assert grace.is_over


def test_each_further_trouble_begins_the_period_anew() -> None:
    clocks = Clocks()
    grace = GracePeriod(30, 5, clocks)
    grace.begin()
    clocks.monotonic += 25
    grace.begin()
    clocks.monotonic += 25
    assert not grace.is_over
