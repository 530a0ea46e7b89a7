"""A few processes on one control in simulated time: real engines and dispatchers, clients, and faults."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from random import Random
from typing import Any

from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor, ReadWriteLogRecord

from engine.dispatch.inprocess import Dispatcher
from engine.engine import ExecutionEngine
from engine.errors import Fenced, Refusal
from engine.graph import JsonObject
from engine.request import ExecutionRequest
from engine.resources import ModelReply, ModelRequest, Resources
from engine.result import ExecutionResult, Status
from engine.store.checkpoints import Checkpoints, in_memory
from engine.store.claims import MAX_CRASHES
from engine.testing.models import Fail, Say, ScriptedModel, Step
from engine.tracing import semconv
from engine.usage import UsageReport
from tests.engine.harness import graph, graph_request, scripted_resources
from tests.faults.fake_ledger import LEASE_SECONDS, Attempt, Control, FaultyLedger, Row
from tests.faults.simulation import Fate

PROCESSES = 2
EXECUTIONS = 5
LONGEST_CALL_SECONDS = 20.0
TROUBLED_SECONDS = 30.0
"""How long faults happen; afterwards there are none."""
DRAIN_SECONDS = 600.0
"""When all executions must have ended."""
TROUBLES = {"refused": 0.04, "answer lost": 0.04, "slow": 0.04, "model fails": 0.05}

MODEL: JsonObject = {"id": "ask", "type": "model"}
APPROVAL: JsonObject = {
    "id": "may",
    "type": "approval",
    "config": {"prompt": "May I?", "answer_within_seconds": 40, "on_timeout": "rejected"},
}
ONE_CALL = ["start -> ask", "ask -> end"]
ASKS_FIRST = ["start -> may", "may -approved-> ask", "may -rejected-> end", "ask -> end"]
GRAPHS = [
    graph([MODEL], ONE_CALL, on_lost="fail"),
    graph([MODEL], ONE_CALL, on_lost="retry"),
    graph([MODEL, {**MODEL, "id": "again"}], ["start -> ask", "ask -> again", "again -> end"], durability="step"),
    graph([MODEL, APPROVAL], ASKS_FIRST, durability="step"),
]

_PROCESS: ContextVar["Process | None"] = ContextVar("process", default=None)


class LastWords(LogRecordProcessor):
    """The terminal events of trackers, by attempt."""

    def __init__(self) -> None:
        self.said: dict[Attempt, list[str]] = {}

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Keep it."""
        record = log_record.log_record
        if record.event_name in semconv.TERMINAL_EVENTS and record.attributes is not None:
            attempt = str(record.attributes[semconv.EXECUTION_ID]), record.attributes[semconv.EXECUTION_ATTEMPT]
            assert isinstance(attempt[1], int)
            self.said.setdefault((attempt[0], attempt[1]), []).append(str(record.event_name))

    def shutdown(self) -> None:
        """Nothing is open."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing waits."""
        return True


LAST_WORDS = LastWords()
_LOGGERS = LoggerProvider()
_LOGGERS.add_log_record_processor(LAST_WORDS)


class SlowModel(ScriptedModel):
    """Says something after a while, or fails."""

    def __init__(self, fate: Fate) -> None:
        super().__init__(self._step)
        self._fate = fate

    async def invoke(self, request: ModelRequest) -> ModelReply:
        """Later."""
        await self._fate.delay(LONGEST_CALL_SECONDS)
        return await super().invoke(request)

    async def stream(self, request: ModelRequest) -> AsyncIterator[str | UsageReport | ModelReply]:
        """Later."""
        await self._fate.delay(LONGEST_CALL_SECONDS)
        async for piece in super().stream(request):
            yield piece

    def _step(self, request: ModelRequest) -> Step:
        return Fail("invalid_request") if self._fate.strikes("model fails") else Say("All is well.")


class Process:
    """An engine, a dispatcher and a lease renewal, which die together."""

    def __init__(self, ledger: FaultyLedger, resources: Resources, checkpoints: Checkpoints) -> None:
        self.ledger = ledger
        self.engine = ExecutionEngine(
            resources, ledger=ledger, logger_provider=_LOGGERS, checkpoints=checkpoints, disconnect_seconds=0.5
        )
        self.dispatcher = Dispatcher(self.engine, ledger, slots=3, poll_seconds=2.5)
        self.tasks: dict[asyncio.Task[Any], None] = {}
        """In the order in which they began, so that the same seed is the same run."""
        self.is_closing = False
        ledger.on_fenced = self.engine.fence_off
        self.spawn(self.dispatcher.run(), "dispatcher")
        self._keepers = [
            self.spawn(_often(LEASE_SECONDS / 3, ledger.renew), "renewal"),
            self.spawn(_often(3.0, self._hear_cancels), "cancel poll"),
        ]

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
        """Run something that dies with this process, as does what it starts."""
        context = Context()
        context.run(_PROCESS.set, self)
        return context.run(asyncio.create_task, work, name=name)

    @property
    def is_asking(self) -> bool:
        """Whether something may still be accepted."""
        return any(task.get_name() in ("client", "asked") for task in self.tasks)

    async def kill(self) -> None:
        """Kill the process: nothing from it reaches the control any more."""
        self.ledger.is_dead = True
        while left := [task for task in self.tasks if not task.done()]:
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=60)

    async def close(self, drain_seconds: float) -> None:
        """Hand over running executions and stop."""
        self.is_closing = True
        await self.dispatcher.stop()
        await self.engine.close(drain_seconds)
        await self.kill()

    async def _hear_cancels(self) -> None:
        for execution_id in await self.ledger.asked_to_cancel():
            self.engine.cancel(execution_id, "asked to")


@dataclass
class World:
    """A simulation under one seed, and the invariants it broke."""

    chance: Random
    control: Control
    hits: Counter[str]
    make_ledger: Callable[..., FaultyLedger] = FaultyLedger
    processes: list[Process] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    _born: int = 0

    def __post_init__(self) -> None:
        self.fate = Fate(self.chance, dict(TROUBLES))
        self._checkpoints = in_memory()
        self._resources = scripted_resources(SlowModel(self.fate))

    async def run(self) -> list[str]:
        """Run with faults, then without; returns the broken invariants."""
        random.seed(self.chance.random())
        LAST_WORDS.said.clear()
        asyncio.get_running_loop().set_task_factory(_owned_by_process)
        for _ in range(PROCESSES):
            self._start()
        others = [
            asyncio.create_task(_often(3.0, self._sweep), name="sweeper"),
            asyncio.create_task(_often(7.0, self._answer), name="answers"),
        ]
        async with asyncio.TaskGroup() as group:
            for number in range(EXECUTIONS):
                group.create_task(self._arrive(), name=f"client {number}")
            for trouble in (self._cancel, self._befall, self._befall):
                group.create_task(trouble(), name="trouble")
        await self._end_in_peace()
        for task in others:
            task.cancel()
        await asyncio.gather(*others, *(process.kill() for process in self.processes), return_exceptions=True)
        self.hits.update(self.fate.hits)
        return self.broken + [what for id_, row in self.control.rows.items() for what in broken_rules(id_, row)]

    async def _end_in_peace(self) -> None:
        self.fate.troubles.clear()
        for _ in range(int(DRAIN_SECONDS)):
            if self._is_over:
                return
            await asyncio.sleep(1.0)

    @property
    def _is_over(self) -> bool:
        is_quiet = not any(process.engine.active or process.is_asking for process in self.processes)
        return is_quiet and all(row.status.is_terminal for row in self.control.rows.values())

    def _start(self) -> None:
        self._born += 1
        ledger = self.make_ledger(f"process {self._born}", self.control, self.fate, self.hits)
        self.processes.append(Process(ledger, self._resources, self._checkpoints))

    async def _arrive(self) -> None:
        """A client starts an execution at one of the processes."""
        await asyncio.sleep(self.chance.uniform(0, TROUBLED_SECONDS * 0.7))
        process = self.chance.choice(self.processes)
        request = graph_request(self.chance.choice(GRAPHS), on_disconnect=self.chance.choice(["cancel", "continue"]))
        process.spawn(self._ask(process, request), "client")

    async def _ask(self, process: Process, request: ExecutionRequest) -> None:
        """Some clients do not wait for the end."""
        ask = self.chance.choice([self._execute, self._stream, self._enqueue])
        patience = self.chance.choice([None, None, None, 5.0])
        with suppress(Refusal, Fenced, TimeoutError):
            async with asyncio.timeout(patience):
                await ask(process, request)

    async def _execute(self, process: Process, request: ExecutionRequest) -> None:
        self._told(await process.engine.execute(request))

    async def _stream(self, process: Process, request: ExecutionRequest) -> None:
        events = [event async for event in process.engine.stream(request)]
        self._told(ExecutionResult.model_validate(events[-1].data, strict=False))

    async def _enqueue(self, process: Process, request: ExecutionRequest) -> None:
        execution_id = await process.engine.enqueue(request)
        if execution_id not in self.control.rows:
            self.broken.append(f"{execution_id} was said to be queued and is not there")
        process.dispatcher.wake()

    def _told(self, result: ExecutionResult) -> None:
        """Who is told a result reads what was decided; a pause may be over by then."""
        self.hits["told"] += 1
        row = self.control.rows.get(str(result.execution_id))
        if row is None:
            self.broken.append(f"{result.execution_id} was told and is not there")
        elif result.status is not Status.PAUSED and row.result != result.model_dump(mode="json"):
            self.broken.append(f"{result.execution_id} was told {result.status}, and decided is {row.facts}")

    async def _sweep(self) -> None:
        self.control.sweep()

    async def _answer(self) -> None:
        for execution_id, row in self.control.rows.items():
            if row.status is Status.PAUSED and self.chance.random() < 0.6:
                self.hits["answers"] += 1
                self.control.answer(execution_id)

    async def _cancel(self) -> None:
        """A client cancels an execution."""
        await asyncio.sleep(self.chance.uniform(3, TROUBLED_SECONDS))
        open_ones = [id_ for id_, row in self.control.rows.items() if not row.status.is_terminal]
        if open_ones:
            self.hits["cancels"] += 1
            self.control.ask_to_cancel(self.chance.choice(open_ones))

    async def _befall(self) -> None:
        """Kill, freeze or stop the busiest process; another one takes its place."""
        await asyncio.sleep(self.chance.uniform(1, TROUBLED_SECONDS))
        well = [process for process in self.processes if not (process.ledger.is_dead or process.is_closing)]
        process = max(well, key=lambda one: (one.engine.active, self.chance.random()))
        what = self.chance.choice(["kills", "freezes", "freezes", "closes"])
        self.hits[what] += 1
        if what == "freezes":
            await process.ledger.freeze(LEASE_SECONDS * self.chance.uniform(1.1, 2.5))
            return
        self._start()
        self.processes[-1].dispatcher.wake()
        if what == "kills":
            await process.kill()
        else:
            await process.close(self.chance.choice([0.0, 2.0]))


def broken_rules(execution_id: str, row: Row) -> list[str]:
    """The invariants that an execution breaks at the end."""
    decided = [fact for fact in row.facts if fact.kind == "decided"]
    lost = sum(fact.kind == "lost" for fact in row.facts)
    rules = {
        "is decided once": len(decided) == 1,
        "keeps its status": row.status.is_terminal and {fact.status for fact in decided} == {row.status},
        "changes no more": row.facts[-1].kind == "decided",
        "goes forward": [fact.attempt for fact in row.facts] == sorted(fact.attempt for fact in row.facts),
        "has no lease left": row.lease_owner is None,
        "is given up in time": lost <= MAX_CRASHES,
        "is told as decided": all(_is_told(execution_id, fact.attempt, fact.by, fact.status) for fact in decided),
    }
    return [f"{execution_id} not: {rule}; {row.facts}" for rule, holds in rules.items() if not holds]


def _is_told(execution_id: str, attempt: int, by: str, status: Status) -> bool:
    """The tracker whose attempt decided has said one last word, and it is the status."""
    said = LAST_WORDS.said.get((execution_id, attempt), [])
    return by == "sweeper" or [name.rsplit(".", 1)[-1] for name in said] == [status.value]


def _owned_by_process(loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> "asyncio.Task[Any]":
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **more)
    if (process := _PROCESS.get()) is not None:
        process.tasks[task] = None
        task.add_done_callback(lambda done: process.tasks.pop(done, None))
    return task


async def _often(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        with suppress(Refusal):
            await work()
