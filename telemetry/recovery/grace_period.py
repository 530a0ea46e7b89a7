"""The grace period after trouble, in which expired leases prove nothing: their owners may have been unable to renew."""

import time
from collections.abc import Callable

STOOD_STILL = 3
"""After this many intervals without a tick, this process or the whole machine must have been frozen."""


def _clocks() -> tuple[float, float]:
    """Both clocks: the monotonic one stops while a machine is suspended, the other one can be adjusted."""
    return time.monotonic(), time.time()


class GracePeriod:
    """One lease period, counted from the last trouble: an unreachable database, or a frozen process."""

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
        """Whether this process was frozen since the last tick, which begins a grace period. Call it every interval."""
        now = self._clocks()
        stood_still = max(now[0] - self._last[0], now[1] - self._last[1]) > self._most_seconds
        self._last = now
        if stood_still:
            self.begin()
        return stood_still

    def begin(self) -> None:
        """Give the owners of leases one lease period, from now, to renew them."""
        self._until = self._clocks()[0] + self._lease_seconds

    @property
    def is_over(self) -> bool:
        """Whether expired leases can be trusted again: their owners had the time to renew them."""
        return self._clocks()[0] >= self._until
