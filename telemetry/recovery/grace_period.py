"""When a sweeper may not trust what it sees: leases may be over because their owners could not renew them."""

import time
from collections.abc import Callable

STOOD_STILL = 3
"""So many intervals without a look, and this process was frozen, or the whole machine was."""


def _clocks() -> tuple[float, float]:
    """The monotonic clock stands while a machine is suspended, the other one may be set."""
    return time.monotonic(), time.time()


class GracePeriod:
    """Counts one lease period from the last sign of trouble; the database's, or that time passed unseen."""

    def __init__(
        self,
        lease_seconds: float,
        interval_seconds: float,
        clocks: Callable[[], tuple[float, float]] = _clocks,
    ) -> None:
        self._lease_seconds = lease_seconds
        self._most_seconds = STOOD_STILL * interval_seconds
        self._clocks = clocks
        self._last = clocks()
        self._until = self._last[0]

    def tick(self) -> bool:
        """Whether time has passed unseen since the last look, so that caution begins; to be called each interval."""
        now = self._clocks()
        stood_still = max(now[0] - self._last[0], now[1] - self._last[1]) > self._most_seconds
        self._last = now
        if stood_still:
            self.begin()
        return stood_still

    def begin(self) -> None:
        """There is trouble: from now on the owners have one lease period to renew."""
        self._until = self._clocks()[0] + self._lease_seconds

    @property
    def is_over(self) -> bool:
        """What is expired now was not renewed although it could have been."""
        return self._clocks()[0] >= self._until
