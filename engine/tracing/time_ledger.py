"""Where the time of an execution went: every moment counts once, so the parts sum to the duration."""

import time
from enum import IntEnum


class Phase(IntEnum):
    """What an execution spends its time on; of several at once the lowest value counts."""

    MODEL = 0
    TOOL = 1
    RETRY = 2
    ENGINE = 3


class TimeLedger:
    """Adds the time since the last change to the phase that counted; all times in seconds."""

    def __init__(self) -> None:
        self._active = [0, 0, 0, 1]
        self._seconds = [0.0, 0.0, 0.0, 0.0]
        self._since = time.perf_counter()

    def enter(self, phase: Phase) -> None:
        """An activity of this phase began."""
        self._settle()
        self._active[phase] += 1

    def leave(self, phase: Phase) -> None:
        """An activity of this phase ended."""
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
