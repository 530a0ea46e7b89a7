"""WorkflowGraph -> LangGraph: a plan becomes segments, run by the walker one LangGraph step each.

A segment ends only where a checkpoint is asked for. Without checkpoints (`durability: none`), and with one only where
the run pauses (`exit`), the whole plan is one segment: LangGraph costs about 180 µs a step, the walker a tenth of that
a node. With `step` a segment is one node, or a fork with its branches, and its checkpoint is on disk before the next
begins. Segments are wired to their channels directly (`Pregel`), since `StateGraph` adds a step of its own to hand the
input over.
"""

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from langchain_core.runnables.config import var_child_runnable_config
from langgraph.channels import EphemeralValue
from langgraph.pregel import NodeBuilder, Pregel
from langgraph.pregel._write import ChannelWriteEntry
from langgraph.runtime import get_runtime
from langsmith.run_helpers import tracing_context
from langsmith.utils import tracing_is_enabled

from engine.errors import RunTimeout
from engine.interpreter import snapshot
from engine.interpreter.plan import Plan
from engine.interpreter.walker import Walker
from engine.pause import Paused, Resume
from engine.result import Approval
from engine.runtime.context import ExecutionContext
from engine.runtime.position import Arrival, WalkPosition
from engine.store.checkpoints import PRUNE_EVERY, SNAPSHOT, STOPPED, Checkpoints, in_memory, thread

BEGIN, DONE = "begin", "done"

App = Pregel[Any, ExecutionContext, Any, Any]


@dataclass(frozen=True, slots=True)
class CompiledWorkflow:
    """A plan and the LangGraph application that runs it; shared by all executions of the same content hash."""

    plan: Plan
    app: App

    async def run(
        self, context: ExecutionContext, *, checkpoints: Checkpoints | None, resume: Resume | None
    ) -> Paused | None:
        """Run to an end (null) or to a pause; `context.state` is what it leaves. Raises as the walker does.

        With `resume` it goes on where the newest checkpoint of an earlier attempt stands, if there is one. Without
        `checkpoints` they are kept in memory, and nobody can go on. Raises `RunTimeout`. To be called in a task of its
        own: a caller inside a LangGraph keeps its checkpointer and callbacks to itself.
        """
        kept = None if self.plan.durability == "none" else checkpoints or in_memory()
        await self.restore(context, kept, resume)
        var_child_runnable_config.set(None)
        try:
            async with asyncio.timeout(max(0.0, context.seconds_left)):
                with tracing_context(enabled=False) if tracing_is_enabled() else nullcontext():
                    await self._run(context, kept)
        except TimeoutError as error:
            raise RunTimeout(f"the execution took longer than {context.limits.run_seconds:g} s") from error
        return _paused(context)

    async def restore(self, context: ExecutionContext, checkpoints: Checkpoints | None, resume: Resume | None) -> bool:
        """Let the context stand where an earlier attempt stood; false: nothing was kept, it stands at the start.

        `run` does it unless it was done before.
        """
        if context.position is not None:
            return context.resume is not None
        context.position, context.resume = WalkPosition(self.plan.start, Arrival()), resume
        if resume is None or checkpoints is None:
            return False
        found = await checkpoints.newest(context.execution_id, resume.from_attempts)
        if found is None:
            return False
        snapshot.restore(context, found)
        return True

    async def _run(self, context: ExecutionContext, checkpoints: Checkpoints | None) -> None:
        if context.standing.at is None:
            return
        limit = context.limits.max_node_executions + 1
        if checkpoints is None or self.plan.durability == "exit":
            await self.app.ainvoke(context.state, config={"recursion_limit": limit}, context=context)
            if checkpoints is not None and context.standing.parked is not None:
                await checkpoints.keep(context.execution_id, context.attempt, snapshot.take(context))
            return
        await checkpoints.setup()
        context.checkpoints = checkpoints
        await self.app.copy({"checkpointer": checkpoints.saver}).ainvoke(
            snapshot.take(context),
            config={"recursion_limit": limit, **thread(context.execution_id, context.attempt)},
            context=context,
            durability="sync",
        )


def _paused(context: ExecutionContext) -> Paused | None:
    parked = context.standing.parked
    if parked is None:
        return None
    asked = parked["approval"]
    approvals = [Approval.model_validate(asked, strict=False)] if asked is not None else []
    return Paused(approvals, due_at=datetime.fromtimestamp(parked["due_at"], UTC))


def compile_plan(plan: Plan) -> CompiledWorkflow:
    """Build the LangGraph application of a plan."""
    return CompiledWorkflow(plan, _by_step(plan) if plan.durability == "step" else _whole(plan))


def _whole(plan: Plan) -> App:
    """The whole plan in one segment."""

    async def segment(state: Any) -> Any:
        await Walker(plan, get_runtime(ExecutionContext).context).run()
        return state

    return Pregel(
        nodes={"segment": NodeBuilder().subscribe_only(BEGIN).do(segment).write_to(DONE).build()},
        channels={BEGIN: EphemeralValue(dict), DONE: EphemeralValue(dict)},
        input_channels=BEGIN,
        output_channels=DONE,
        context_schema=ExecutionContext,
    )


def _by_step(plan: Plan) -> App:
    """A segment for each node; the snapshot behind it is the value of one channel while the run goes on."""

    async def segment(state: bytes) -> "_Segment":
        context = get_runtime(ExecutionContext).context
        await Walker(plan, context).step()
        await _drop_older(context)
        goes_on = context.standing.at is not None and context.standing.parked is None
        return _Segment(snapshot.take(context), goes_on)

    written = (
        ChannelWriteEntry(SNAPSHOT, skip_none=True, mapper=lambda done: done.data if done.goes_on else None),
        ChannelWriteEntry(STOPPED, skip_none=True, mapper=lambda done: None if done.goes_on else done.data),
    )
    return Pregel(
        nodes={"segment": NodeBuilder().subscribe_only(SNAPSHOT).do(segment).write_to(*written).build()},
        channels={SNAPSHOT: EphemeralValue(bytes), STOPPED: EphemeralValue(bytes)},
        input_channels=SNAPSHOT,
        output_channels=STOPPED,
        context_schema=ExecutionContext,
    )


@dataclass(frozen=True, slots=True)
class _Segment:
    """What a segment leaves: the run as it stands, and whether another segment follows."""

    data: bytes
    goes_on: bool


async def _drop_older(context: ExecutionContext) -> None:
    context.steps += 1
    if context.checkpoints is not None and context.steps % PRUNE_EVERY == 0:
        await context.checkpoints.prune(context.execution_id, context.attempt)
