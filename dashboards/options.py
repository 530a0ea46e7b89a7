"""The parameters of the rules: windows, thresholds and the targets of links."""

import re
from dataclasses import dataclass

LOOPBACK = "http://127.0.0.1:8000"
AS_TOLD = (
    '{{ with query `spanloom_service_info{public_url!=""}` }}{{ . | first | label "public_url" }}'
    f"{{{{ else }}}}{LOOPBACK}{{{{ end }}}}"
)
"""Prometheus' template for `SPANLOOM_PUBLIC_URL` of the service: set there, it needs no edit of the rules."""
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Options:
    """The defaults make the shipped rules; tests shorten all times by `scale`."""

    scale: float = 1.0
    service: str = AS_TOLD
    """The address of the service, for links; by default the one that the service itself tells in its metrics."""
    runbook: str = f"{AS_TOLD}/runbook"
    """The address of the runbook; `#name-of-the-alert` is appended."""
    objective: float = 0.99
    """The share of executions that should complete."""
    least_executions: int = 10
    """How many executions must end in the long window before a failure rate counts."""
    slow_seconds: float = 60.0
    stuck_seconds: float = 3_600.0
    failed_calls: float = 0.25
    """The share of the calls to a model that may fail."""
    spike_factor: float = 4.0
    spike_usd: float = 10.0
    """An hour that costs less never counts as a spike."""
    lag_seconds: float = 60.0
    overdue_seconds: float = 3 * 3_600.0

    def time(self, nominal: str) -> str:
        """A nominal time such as `5m`, scaled."""
        if self.scale == 1.0:
            return nominal
        count, unit = re.fullmatch(r"(\d+)([smhd])", nominal).groups()  # type: ignore[union-attr]  # our own literals
        return f"{max(1, round(int(count) * _SECONDS[unit] * self.scale * 1_000))}ms"

    def seconds(self, nominal: float) -> str:
        """A threshold in seconds, scaled."""
        return f"{nominal * self.scale:g}"

    @property
    def budget(self) -> float:
        """The share of executions that may fail."""
        return 1 - self.objective
