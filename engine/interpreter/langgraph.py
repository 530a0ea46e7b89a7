"""Runs plans on LangGraph: a plan is split into segments, and the walker runs each in one LangGraph step.

A segment ends where a checkpoint is needed. With `durability: none` (no checkpoints) and `exit` (one checkpoint when
the run pauses) the whole plan is one segment, because a LangGraph step costs about 180 µs and a node in the walker a
tenth of that. With `step` a segment is one node, or a fork with its branches, and its checkpoint is saved before the
next segment begins. Segments use `Pregel` channels directly, because `StateGraph` adds a step to pass on the input.
"""

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from langgraph.channels import EphemeralValue
from langgraph.pregel import NodeBuilder, Pregel
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
from engine.store import langgraph_private
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
        """Run to an end (null) or to a pause. The final state is in `context.state`.

        With `resume` the run continues from the newest checkpoint of an earlier attempt, if there is one. Without
        `checkpoints` they are kept in memory, and no later attempt can continue. Raises `RunTimeout`, and as
        `Walker.run`. Call it in a separate task: it leaves the LangGraph run that the caller may be part of.
        """
        store = None if self.plan.durability == "none" else checkpoints or in_memory()
        await self.restore(context, store, resume)
        langgraph_private.leave_calling_graph()
        try:
            async with asyncio.timeout(max(0.0, context.seconds_left)):
                with tracing_context(enabled=False) if tracing_is_enabled() else nullcontext():
                    await self._run(context, store)
        except TimeoutError as error:
            raise RunTimeout(f"the execution took longer than {context.limits.run_seconds:g} s") from error
        return _paused(context)

    async def restore(self, context: ExecutionContext, checkpoints: Checkpoints | None, resume: Resume | None) -> bool:
        """Restore the newest checkpoint of earlier attempts into the context; false if the run begins at the start.

        `run` calls it, too; a second call changes nothing.
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
        if context.current_position.at is None:
            return
        limit = context.limits.max_node_executions + 1
        if checkpoints is None or self.plan.durability == "exit":
            await self.app.ainvoke(context.state, config={"recursion_limit": limit}, context=context)
            if checkpoints is not None and context.current_position.parked is not None:
                await checkpoints.keep(context.execution_id, context.attempt, snapshot.take(context))
            return
        await checkpoints.setup()
        context.checkpoints = checkpoints
        await langgraph_private.with_checkpointer(self.app, checkpoints.saver).ainvoke(
            snapshot.take(context),
            config={"recursion_limit": limit, **thread(context.execution_id, context.attempt)},
            context=context,
            durability="sync",
        )


def _paused(context: ExecutionContext) -> Paused | None:
    parked = context.current_position.parked
    if parked is None:
        return None
    asked = parked["approval"]
    approvals = [Approval.model_validate(asked, strict=False)] if asked is not None else []
    return Paused(approvals, due_at=datetime.fromtimestamp(parked["due_at"], UTC))


def compile_plan(plan: Plan) -> CompiledWorkflow:
    """Build the LangGraph application of a plan."""
    return CompiledWorkflow(plan, _by_step(plan) if plan.durability == "step" else _whole(plan))


def _whole(plan: Plan) -> App:
    """The application that runs the whole plan in one segment."""

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
    """The application that runs one segment per node, and passes on the snapshot after each in a channel."""

    async def segment(state: bytes) -> "_Segment":
        context = get_runtime(ExecutionContext).context
        await Walker(plan, context).step()
        await context.commit_calls()
        await _drop_older(context)
        continues = context.current_position.at is not None and context.current_position.parked is None
        return _Segment(snapshot.take(context), continues)

    written = (
        langgraph_private.write_to(SNAPSHOT, lambda done: done.data if done.continues else None),
        langgraph_private.write_to(STOPPED, lambda done: None if done.continues else done.data),
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
    """The result of a segment: a snapshot of the run, and whether another segment follows."""

    data: bytes
    continues: bool


async def _drop_older(context: ExecutionContext) -> None:
    context.steps += 1
    if context.checkpoints is not None and context.steps % PRUNE_EVERY == 0:
        await context.checkpoints.prune(context.execution_id, context.attempt)
