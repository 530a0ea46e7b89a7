"""An event loop without a world: time jumps to the next timer, and chance, by a seed, says who runs next.

A run with the same seed is the same run. What runs under it may use tasks, timers, events, queues and fakes; sockets,
threads and processes it has none. It finds in milliseconds what a real loop shows once a month: every order in which
tasks could have woken up is as likely as any other.
"""

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

EPOCH_SECONDS = 1_795_000_000.0
"""What the wall clock says when a simulation begins."""

MOST_STEPS = 200_000


class Deadlocked(AssertionError):
    """Everybody waits for somebody, and no timer is set."""


class Endless(AssertionError):
    """The simulation took more steps than anything reasonable does."""


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Runs one callback at a time; of those that could run, chance takes one.

    Callbacks of one task stay in the order in which they were asked for: asyncio promises that.
    """

    def __init__(self, seed: int, *, is_fair: bool = False) -> None:
        super().__init__()
        self._chance = Random(seed)
        self._now = 0.0
        self._is_fair = is_fair
        self.steps = 0
        self.trace: list[str] = []
        """Who ran, in order."""

    def time(self) -> float:
        """Seconds since the simulation began."""
        return self._now

    def wall_time(self) -> float:
        """Seconds since the epoch."""
        return EPOCH_SECONDS + self._now

    def run_in_executor(self, executor: object, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":  # type: ignore[override]  # nothing is run
        """Raises: there are no threads."""
        raise AssertionError(f"a simulation has no thread for {func}")

    def _run_once(self) -> None:
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise Endless(f"{MOST_STEPS} steps, and it is not over at {self._now:g} s")
        self._wake_sleepers()
        handle = self._take()
        if not handle.cancelled():
            self.trace.append(_who(handle))
            handle._run()

    def _wake_sleepers(self) -> None:
        """Make ready what is due; if nothing is ready, time passes until something is."""
        scheduled, ready = self._timers(), self._queue()
        while scheduled and scheduled[0].cancelled():
            heapq.heappop(scheduled)._scheduled = False  # type: ignore[attr-defined]  # as the real loop does
        if not ready:
            if not scheduled:
                raise Deadlocked(f"at {self._now:g} s nobody can go on")
            self._now = max(self._now, scheduled[0].when())
        while scheduled and scheduled[0].when() <= self._now:
            timer = heapq.heappop(scheduled)
            timer._scheduled = False  # type: ignore[attr-defined]  # as the real loop does
            ready.append(timer)

    def _take(self) -> asyncio.Handle:
        ready = self._queue()
        if self._is_fair or len(ready) == 1:
            return ready.popleft()
        firsts: dict[int, int] = {}
        for position, handle in enumerate(ready):
            firsts.setdefault(_owner(handle), position)
        position = self._chance.choice(list(firsts.values()))
        handle = ready[position]
        del ready[position]
        return handle

    def _queue(self) -> "deque[asyncio.Handle]":
        return self._ready  # type: ignore[attr-defined,no-any-return]  # there is no public way to it

    def _timers(self) -> list[asyncio.TimerHandle]:
        return self._scheduled  # type: ignore[attr-defined,no-any-return]  # nor to this


def _owner(handle: asyncio.Handle) -> int:
    """Whose callback it is: a task's steps belong to the task."""
    callback = handle._callback  # type: ignore[attr-defined]  # a handle says it to nobody
    return id(getattr(callback, "__self__", callback))


def _who(handle: asyncio.Handle) -> str:
    owner = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
    return owner.get_name() if isinstance(owner, asyncio.Task) else "-"


@contextmanager
def clocks_of(loop: SimulatedLoop) -> Iterator[None]:
    """The clocks of the module `time` are those of the loop."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", loop.time)
        patch.setattr(time, "perf_counter", loop.time)
        patch.setattr(time, "time", loop.wall_time)
        patch.setattr(time, "time_ns", lambda: int(loop.wall_time() * 1e9))
        yield


def simulate(main: Callable[[], Coroutine[Any, Any, T]], seed: int, *, is_fair: bool = False) -> T:
    """Run to the end in simulated time. Raises `Deadlocked`, `Endless`, or what `main` raises."""
    loop = SimulatedLoop(seed, is_fair=is_fair)
    try:
        with clocks_of(loop), asyncio.Runner(loop_factory=lambda: loop) as runner:
            return runner.run(main())
    finally:
        loop.close()


@dataclass(slots=True)
class Fate:
    """Decides by chance what goes wrong in a simulated world; what a fake asks before and after it acts."""

    random: Random
    troubles: dict[str, float]
    """How likely each trouble is, by its name."""
    hits: dict[str, int] = field(default_factory=dict)

    def strikes(self, trouble: str) -> bool:
        """Whether it happens now."""
        if self.random.random() >= self.troubles.get(trouble, 0.0):
            return False
        self.hits[trouble] = self.hits.get(trouble, 0) + 1
        return True

    async def delay(self, longest_seconds: float) -> None:
        """Take a while, mostly a short one."""
        await asyncio.sleep(longest_seconds * self.random.random() ** 3)


@dataclass(frozen=True, slots=True)
class Broken:
    """A seed under which something that must hold did not."""

    seed: int
    what: str


Scenario = Callable[[Random], Coroutine[Any, Any, list[str]]]
"""What happens by chance, and what must hold then and did not."""


def explore(scenario: Scenario, seeds: range) -> list[Broken]:
    """Run a scenario once per seed, each with a chance of its own. One that crashes has not held, either."""
    return [Broken(seed, what) for seed in seeds for what in _told(scenario, seed)]


def _told(scenario: Scenario, seed: int) -> list[str]:
    async def run() -> list[str]:
        [told] = await asyncio.gather(scenario(Random(seed)), return_exceptions=True)
        return [f"{type(told).__name__}: {told}"] if isinstance(told, BaseException) else told

    try:
        return simulate(run, seed)
    except (Deadlocked, Endless) as error:
        return [f"{type(error).__name__}: {error}"]
