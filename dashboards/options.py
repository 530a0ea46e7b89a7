"""What the rules depend on: windows, thresholds, and where links lead."""

import re
from dataclasses import dataclass

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Options:
    """The shipped rules have the defaults; tests shorten every time by `scale`."""

    scale: float = 1.0
    runbook: str = "runbook.md"
    """What `#name-of-the-alert` is put behind."""
    service: str = ""
    """Where the service is reached, before `/v1/…` in links."""
    objective: float = 0.99
    """Share of executions that are to complete."""
    least_executions: int = 10
    """So many have to end in the long window before a failure rate means something."""
    slow_seconds: float = 60.0
    stuck_seconds: float = 3_600.0
    spike_factor: float = 4.0
    spike_usd: float = 10.0
    """An hour that costs less is no spike."""
    lag_seconds: float = 60.0
    overdue_seconds: float = 3 * 3_600.0

    def time(self, nominal: str) -> str:
        """A time such as `5m`, as this set of rules has it."""
        if self.scale == 1.0:
            return nominal
        count, unit = re.fullmatch(r"(\d+)([smhd])", nominal).groups()  # type: ignore[union-attr]  # our own literals
        return f"{max(1, round(int(count) * _SECONDS[unit] * self.scale * 1_000))}ms"

    def seconds(self, nominal: float) -> str:
        """A threshold that is a time, in seconds."""
        return f"{nominal * self.scale:g}"

    @property
    def budget(self) -> float:
        """Share of executions that may fail."""
        return 1 - self.objective
