"""WorkflowGraph -> LangGraph: a plan becomes segments, run by the walker one LangGraph step each.

A segment ends only where a checkpoint is asked for. Without checkpoints (`durability: none`) the whole plan is one
segment: LangGraph costs about 180 µs a step, the walker a tenth of that a node. The segment is wired to its channels
directly (`Pregel`), since `StateGraph` adds a step of its own to hand the input over.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables.config import var_child_runnable_config
from langgraph.channels import EphemeralValue
from langgraph.pregel import NodeBuilder, Pregel
from langgraph.runtime import get_runtime
from langsmith.run_helpers import tracing_context
from langsmith.utils import tracing_is_enabled

from engine.checkpoints import Checkpoints
from engine.context import ExecutionContext
from engine.pause import Paused, Resume
from engine.plan import Plan
from engine.state import WorkflowState
from engine.walker import Walker

BEGIN, DONE = "begin", "done"


@dataclass(frozen=True, slots=True)
class CompiledWorkflow:
    """A plan and the LangGraph application that runs it; shared by all executions of the same content hash."""

    plan: Plan
    app: Pregel[Any, ExecutionContext, Any, Any]

    async def run(
        self, context: ExecutionContext, *, checkpoints: Checkpoints | None, resume: Resume | None
    ) -> Paused | None:
        """Run to an end (null) or to a pause; `context.state` is what it leaves. Raises as the walker does.

        To be called in a task of its own: a caller inside a LangGraph keeps its checkpointer and callbacks to itself.
        """
        var_child_runnable_config.set(None)
        with tracing_context(enabled=False) if tracing_is_enabled() else nullcontext():
            await self.app.ainvoke(
                context.state,
                config={"recursion_limit": context.limits.max_node_executions + 1},
                context=context,
            )
        return None


def compile_plan(plan: Plan) -> CompiledWorkflow:
    """Build the LangGraph application of a plan."""

    async def segment(state: WorkflowState) -> WorkflowState:
        await Walker(plan, get_runtime(ExecutionContext).context).run(state)
        return state

    app: Pregel[Any, ExecutionContext, Any, Any] = Pregel(
        nodes={"segment": NodeBuilder().subscribe_only(BEGIN).do(segment).write_to(DONE).build()},
        channels={BEGIN: EphemeralValue(WorkflowState), DONE: EphemeralValue(WorkflowState)},
        input_channels=BEGIN,
        output_channels=DONE,
        context_schema=ExecutionContext,
    )
    return CompiledWorkflow(plan, app)
