"""The node type `delay`: waits. During a long wait the execution is paused and holds no worker."""

import asyncio
import random
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from engine.nodes.base import ConfigFault, NodeBase, NodeConfig, NodeResult, Park
from engine.runtime.state import WorkflowState
from engine.tracing import semconv

if TYPE_CHECKING:
    from engine.runtime.visit import Visit

LONGEST_SECONDS = 86_400
PARKS_ABOVE_SECONDS = 60


class DelayConfig(NodeConfig):
    """How the waiting time is chosen, and its bounds."""

    delay_type: Literal["fixed", "random", "exponential"] = "fixed"
    """`fixed` waits the duration, `random` a time between the two durations, `exponential` doubles with each visit."""
    duration_seconds: float = Field(default=1, ge=0, le=LONGEST_SECONDS)
    """The waiting time, or its lower bound."""
    max_duration_seconds: float | None = Field(default=None, ge=0, le=LONGEST_SECONDS)
    """The upper bound; null means twice the duration for `random`, a day for `exponential`."""

    @property
    def longest_seconds(self) -> float:
        """The longest time that a visit can wait."""
        duration, most = self.duration_seconds, self.max_duration_seconds
        if self.delay_type == "fixed" or duration == 0:
            return duration
        if most is not None:
            return most
        return min(2 * duration, LONGEST_SECONDS) if self.delay_type == "random" else LONGEST_SECONDS


class DelayNode(NodeBase[DelayConfig]):
    """Waits. Over a minute the visit parks, unless the durability is `none`; a crash does not change the due time."""

    type = "delay"
    title = "Delay"
    description = "Waits a fixed, random or exponentially growing time. Waits over 60 s pause the execution."
    category = "flow"
    Config = DelayConfig
    catches = False
    output_schema = {"type": "object", "properties": {"seconds": {"type": "number"}, "parked": {"type": "boolean"}}}

    @classmethod
    def check(cls, config: DelayConfig) -> Iterator[ConfigFault]:
        most = config.max_duration_seconds
        if most is not None and most < config.duration_seconds:
            yield ConfigFault("`max_duration_seconds` is below `duration_seconds`.", "/max_duration_seconds")

    @classmethod
    def may_park(cls, config: DelayConfig) -> bool:
        return config.longest_seconds > PARKS_ABOVE_SECONDS

    async def run(self, state: WorkflowState, visit: "Visit") -> NodeResult:
        if visit.parked is not None:
            return self._go_on(visit.parked["since"], visit.parked["due_at"], visit)
        seconds = self._seconds(visit.number)
        if visit.context.may_park and seconds > PARKS_ABOVE_SECONDS:
            now = time.time()
            return self._park(now, now + seconds, visit)
        _describe(visit, seconds, parked=False)
        await asyncio.sleep(seconds)
        return NodeResult(output={"seconds": seconds, "parked": False})

    def _go_on(self, since: float, due_at: float, visit: "Visit") -> NodeResult:
        if not visit.is_due:
            return self._park(since, due_at, visit)
        _describe(visit, due_at - since, parked=True)
        return NodeResult(output={"seconds": due_at - since, "parked": True})

    @staticmethod
    def _park(since: float, due_at: float, visit: "Visit") -> NodeResult:
        _describe(visit, due_at - since, parked=True)
        return NodeResult(output={}, park=Park(since, due_at))

    def _seconds(self, visit_number: int) -> float:
        config = self.config
        match config.delay_type:
            case "fixed":
                return config.duration_seconds
            case "random":
                return random.uniform(config.duration_seconds, config.longest_seconds)
            case "exponential":
                doublings = min(visit_number - 1, 64)
                return min(config.duration_seconds * 2.0**doublings, config.longest_seconds)


def _describe(visit: "Visit", seconds: float, *, parked: bool) -> None:
    visit.span.update({semconv.DELAY_SECONDS: float(seconds), semconv.DELAY_PARKED: parked})
