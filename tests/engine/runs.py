"""Runs compiled workflows attempt by attempt, as the engine does, and simulates a crash at any checkpoint."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from engine.events import EventRing, ExecutionEvent
from engine.execution.loading import Loader
from engine.graph import JsonObject
from engine.identity import ExecutionIdentity
from engine.interpreter.langgraph import CompiledWorkflow
from engine.pause import Paused, Resume
from engine.resources import Resources, Tool
from engine.runtime.budget import Budget
from engine.runtime.context import ExecutionContext
from engine.runtime.state import WorkflowState, initial_state
from engine.store.checkpoints import Checkpoints, in_memory
from engine.testing.models import Script, ScriptedModel
from engine.tracing.tracker import Tracing, WorkflowTracker
from tests.engine.harness import scripted_resources


class Lost(Exception):
    """The worker died."""


class Losing:
    """Simulates a crash of the worker before or after a checkpoint is written."""

    def __init__(self, checkpoints: Checkpoints, *, at_write: int, after: bool) -> None:
        self.checkpoints = checkpoints
        self._left = at_write
        self._after = after
        self._put: Callable[..., Any] = checkpoints.saver.aput

    async def put(self, *arguments: Any) -> Any:
        """Replaces the saver's `aput`."""
        self._left -= 1
        if self._left == 0 and not self._after:
            raise Lost
        put = await self._put(*arguments)
        if self._left == 0:
            raise Lost
        return put


@asynccontextmanager
async def losing(checkpoints: Checkpoints, at_write: int, *, after: bool) -> AsyncIterator[None]:
    """Let the worker crash at this checkpoint, counted from 1 (the one of the input)."""
    saver: Any = checkpoints.saver
    saver.aput = Losing(checkpoints, at_write=at_write, after=after).put
    try:
        yield
    finally:
        del saver.aput


@dataclass
class Attempt:
    """The context, pause and spans of one attempt."""

    context: ExecutionContext
    paused: Paused | None
    spans: list[ReadableSpan]

    @property
    def state(self) -> WorkflowState:
        return self.context.state

    def events(self) -> list[ExecutionEvent]:
        """The events that readers got."""
        return list(self.context.events._events)


@dataclass
class Runs:
    """One execution of a graph over several attempts, and the checkpoints between them."""

    graph: JsonObject
    model: ScriptedModel
    tools: list[Tool] = field(default_factory=list)
    checkpoints: Checkpoints = field(default_factory=in_memory)
    execution_id: str = "01900000-0000-7000-8000-000000000000"
    input: JsonObject = field(default_factory=lambda: {"message": "hello"})
    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)

    @classmethod
    def of(cls, graph: JsonObject, script: Script = (), **more: Any) -> "Runs":
        """An execution with a scripted model."""
        return cls(graph, ScriptedModel(script), **more)

    @property
    def resources(self) -> Resources:
        """The resources of every attempt."""
        return scripted_resources(self.model, tools=self.tools)

    def compiled(self) -> CompiledWorkflow:
        """The graph, loaded as the engine does."""
        return Loader(self.resources).load(self.graph, "owner", refuse_shape=False)

    def context(self, compiled: CompiledWorkflow, attempt: int) -> ExecutionContext:
        """A new context for an attempt."""
        graph = compiled.plan.graph
        tracers = TracerProvider(sampler=ALWAYS_ON)
        tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        tracker = WorkflowTracker(Tracing.over(tracers, None), self.resources.prices)
        now = time.time_ns()
        tracker.start(
            ExecutionIdentity(self.execution_id, attempt, "owner", "test", "definition", "api", False, now, now)
        )
        return ExecutionContext(
            execution_id=self.execution_id,
            attempt=attempt,
            owner="owner",
            conversation_id=None,
            source="definition",
            any_folder=False,
            graph=graph,
            limits=graph.limits,
            deadline=time.monotonic() + graph.limits.run_seconds,
            resources=self.resources,
            tracker=tracker,
            events=EventRing(10_000),
            budget=Budget(graph.limits, self.resources.prices, tracker),
            state=initial_state(input=self.input, variables=graph.variables, messages=[], summary=None),
        )

    async def attempt(self, number: int = 1, resume: Resume | None = None) -> Attempt:
        """Run one attempt to its end or to a pause. Raises what the walker raises."""
        self.exporter.clear()
        compiled = self.compiled()
        context = self.context(compiled, number)
        paused = await compiled.run(context, checkpoints=self.checkpoints, resume=resume)
        return Attempt(context, paused, list(self.exporter.get_finished_spans()))
