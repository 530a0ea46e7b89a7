"""The dispatcher: claims waiting executions up to its slots, and keeps going after errors."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from engine.dispatch.inprocess import Dispatcher
from engine.errors import Unavailable
from engine.identity import ExecutionIdentity
from engine.ledger import Claim, NullLedger
from engine.usage import Carried


def claim(number: int) -> Claim:
    identity = ExecutionIdentity(
        execution_id=f"e-{number}",
        attempt=1,
        owner="default",
        workflow_name="w",
        source="graph",
        trigger="api",
        streaming=False,
        queued_ns=1,
        started_ns=1,
    )
    return Claim(identity, "queued", {}, None, 0.0, None, Carried(), "retry")


class Queue(NullLedger):
    """A ledger with queued executions; its next claims may fail."""

    def __init__(self, waiting: int = 0) -> None:
        self.waiting = [claim(number) for number in range(waiting)]
        self.trouble = 0
        self.asked: list[int] = []
        self.abandoned: asyncio.Queue[str] = asyncio.Queue()
        self.claimed = asyncio.Event()

    async def claim(self, limit: int) -> list[Claim]:
        """At most `limit` claims, or an error."""
        self.asked.append(limit)
        self.claimed.set()
        if self.trouble:
            self.trouble -= 1
            raise Unavailable("no database")
        taken, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return taken

    def abandon(self, execution_id: str, attempt: int = 1) -> None:
        """Record the call."""
        self.abandoned.put_nowait(execution_id)


class Started:
    """An execution that runs until `end` is set."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.end = asyncio.Event()
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.accepted.set_result(None)
        self.task = asyncio.create_task(self.end.wait())


class Engine:
    """An engine that starts every claim, except those it refuses."""

    def __init__(self, *, refuses: Callable[[Claim], bool] = lambda _: False) -> None:
        self.taken: list[Started] = []
        self.most = 0
        self._news: asyncio.Queue[Started] = asyncio.Queue()
        self._refuses = refuses

    async def take_on(self, claim: Claim) -> Started:
        """Start an execution."""
        if self._refuses(claim):
            raise ValueError("cannot be read")
        self.taken.append(Started(claim.identity.execution_id))
        self.most = max(self.most, sum(not one.task.done() for one in self.taken))
        self._news.put_nowait(self.taken[-1])
        return self.taken[-1]

    async def next(self) -> Started:
        """Wait for the next execution that is started."""
        return await asyncio.wait_for(self._news.get(), 10)


@asynccontextmanager
async def dispatching(
    queue: Queue, engine: Engine, *, slots: int = 64, poll_seconds: float = 60.0
) -> AsyncIterator[Dispatcher]:
    dispatcher = Dispatcher(engine, queue, slots=slots, poll_seconds=poll_seconds)  # type: ignore[arg-type]  # it takes claims on
    task = asyncio.create_task(dispatcher.run())
    try:
        yield dispatcher
    finally:
        for one in engine.taken:
            one.end.set()
        await dispatcher.stop()
        await task


async def test_waiting_executions_are_started_at_once() -> None:
    queue, engine = Queue(3), Engine()
    async with dispatching(queue, engine):
        assert [(await engine.next()).id for _ in range(3)] == ["e-0", "e-1", "e-2"]


async def test_it_never_holds_more_than_its_slots_and_claims_again_when_one_is_free() -> None:
    queue, engine = Queue(5), Engine()
    async with dispatching(queue, engine, slots=2) as dispatcher:
        for _ in range(5):
            started = await engine.next()
            assert dispatcher.held <= 2
            started.end.set()
        assert engine.most <= 2
        assert max(queue.asked) == 2


async def test_a_local_wake_does_not_wait_for_the_next_poll() -> None:
    queue, engine = Queue(), Engine()
    async with dispatching(queue, engine) as dispatcher:
        await queue.claimed.wait()
        queue.waiting = [claim(7)]
        dispatcher.wake()
        assert (await engine.next()).id == "e-7"


async def test_executions_queued_by_other_processes_are_found_without_a_wake() -> None:
    queue, engine = Queue(), Engine()
    async with dispatching(queue, engine, poll_seconds=0.01):
        await queue.claimed.wait()
        queue.waiting = [claim(7)]
        assert (await engine.next()).id == "e-7"


async def test_database_errors_are_logged_and_claiming_continues(caplog: pytest.LogCaptureFixture) -> None:
    queue, engine = Queue(1), Engine()
    queue.trouble = 2
    async with dispatching(queue, engine, poll_seconds=0.01):
        assert (await engine.next()).id == "e-0"
    assert caplog.text.count("executions could not be claimed") == 2


async def test_a_claim_that_cannot_start_frees_its_slot_and_its_lease_is_not_renewed() -> None:
    queue = Queue(3)
    engine = Engine(refuses=lambda one: one.identity.execution_id != "e-1")
    async with dispatching(queue, engine) as dispatcher:
        given_up = {await asyncio.wait_for(queue.abandoned.get(), 10) for _ in range(2)}
        assert given_up == {"e-0", "e-2"}
        assert dispatcher.held == 1
        assert [one.id for one in engine.taken] == ["e-1"]


async def test_a_stopped_dispatcher_claims_nothing_and_loses_no_claim() -> None:
    queue, engine = Queue(), Engine()
    async with dispatching(queue, engine) as dispatcher:
        await queue.claimed.wait()
        await dispatcher.stop()
        queue.waiting = [claim(1)]
        dispatcher.wake()
        await asyncio.sleep(0)
        assert len(queue.waiting) == 1


async def test_a_claim_in_progress_is_started_before_the_dispatcher_stops() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Queue):
        async def claim(self, limit: int) -> list[Claim]:
            begun.set()
            await go_on.wait()
            return await super().claim(limit)

    queue, engine = Slow(1), Engine()
    async with dispatching(queue, engine) as dispatcher:
        await begun.wait()
        stopping = asyncio.create_task(dispatcher.stop())
        go_on.set()
        await stopping
        assert len(engine.taken) == 1
