"""The time ledger: splits an execution's duration into phases. Each moment counts once, so the parts add up."""

import time
from enum import IntEnum


class Phase(IntEnum):
    """The phases of an execution. When several are active at once, the one with the lowest value counts."""

    MODEL = 0
    TOOL = 1
    RETRY = 2
    ENGINE = 3


class TimeLedger:
    """Sums up the seconds of each phase of a running execution."""

    def __init__(self) -> None:
        self._active = [0, 0, 0, 1]
        self._seconds = [0.0, 0.0, 0.0, 0.0]
        self._since = time.perf_counter()

    def enter(self, phase: Phase) -> None:
        """Note that an activity of this phase began."""
        self._settle()
        self._active[phase] += 1

    def leave(self, phase: Phase) -> None:
        """Note that an activity of this phase ended."""
        self._settle()
        self._active[phase] -= 1

    def settle(self) -> dict[Phase, float]:
        """The seconds of each phase up to now."""
        self._settle()
        return {phase: self._seconds[phase] for phase in Phase}

    def _settle(self) -> None:
        now = time.perf_counter()
        for phase, active in enumerate(self._active):
            if active:
                self._seconds[phase] += now - self._since
                break
        self._since = now
