"""The node type `tools`: runs the tool calls of the last assistant message."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from uuid_utils.compat import uuid7

from engine.errors import ToolFailed
from engine.graph import JsonObject, Retry
from engine.nodes.base import ConfigFault, NodeBase, NodeConfig, NodeResult
from engine.resources import Message, Tool, ToolCall, ToolSpec
from engine.runtime.calls import ToolOutcome, call_tool
from engine.runtime.state import Change, WorkflowState
from engine.tracing import semconv

if TYPE_CHECKING:
    from engine.runtime.context import ExecutionContext
    from engine.runtime.visit import Visit

LIMIT_REACHED = "not executed: limit reached"


class ToolsConfig(NodeConfig):
    """The allowed tools and the limits of their calls; sizes are in bytes of UTF-8."""

    allowed_tools: list[str] = Field(default_factory=list, max_length=100)
    """Names of the tools that may be called; `["*"]` allows all of the owner's tools, `[]` none."""
    max_tool_calls: int = Field(default=10, ge=1, le=100)
    """Most calls by this node in one execution, retries included."""
    tool_timeout_seconds: float = Field(default=30, ge=0.1, le=600)
    """Timeout of one call."""
    max_parallel: int = Field(default=4, ge=1, le=16)
    """Most calls that run at once."""
    on_tool_error: Literal["report", "fail"] = "report"
    """`report` returns the failure to the model; `fail` fails the node."""
    max_result_bytes: int = Field(default=32_768, ge=1, le=262_144)
    """Longer results are cut."""


@dataclass(frozen=True, slots=True)
class _Answer:
    call: ToolCall
    outcome: ToolOutcome | None
    """Null if the limit of calls was reached."""


class ToolsNode(NodeBase[ToolsConfig]):
    """Runs tool calls. Every call counts, and by default a failure is returned to the model as the tool's result."""

    type = "tools"
    title = "Tools"
    description = "Runs the tool calls of the last assistant message. Labels `done` and `limit`."
    category = "model"
    Config = ToolsConfig
    default_retry = Retry(max_attempts=1)
    retries_calls = True
    bounds_cycle = True
    streams = True
    runs_tool_calls = True
    output_is_untrusted = True
    output_schema = {
        "type": "object",
        "properties": {
            "calls": {"type": "integer"},
            "failed": {"type": "integer"},
            "not_executed": {"type": "integer"},
            "limit_reached": {"type": "boolean"},
            "results": {"type": "array"},
        },
    }

    @classmethod
    def check(cls, config: ToolsConfig) -> Iterator[ConfigFault]:
        if "*" in config.allowed_tools:
            yield ConfigFault("`*` allows every tool that the owner may use.", "/allowed_tools", "security.all_tools")

    @classmethod
    def labels(cls, config: ToolsConfig) -> tuple[str, ...]:
        return ("done", "limit")

    @classmethod
    def tools_named(cls, config: ToolsConfig) -> Mapping[str, str]:
        return {f"/allowed_tools/{index}": name for index, name in enumerate(config.allowed_tools)}

    def offered_tools(self, context: "ExecutionContext") -> list[ToolSpec]:
        return [tool.spec for tool in self.allowed(context)] if self.calls_left(context) > 0 else []

    def allowed(self, context: "ExecutionContext") -> list[Tool]:
        """The tools this node may run, in the order it names them."""
        tools = context.resources.tools
        if "*" in self.config.allowed_tools:
            return list(tools.values())
        return [tools[name] for name in self.config.allowed_tools if name in tools]

    def calls_left(self, context: "ExecutionContext") -> int:
        """How many calls this node may still make in this execution."""
        return context.tool_calls_left(self.id, self.config.max_tool_calls)

    async def run(self, state: WorkflowState, visit: "Visit") -> NodeResult:
        calls = _open_calls(state["messages"])
        answers = await self._run_calls(calls, visit)
        taken = sum(answer.outcome.attempts for answer in answers if answer.outcome)
        failed = [answer for answer in answers if answer.outcome and not answer.outcome.ok]
        limited = any(answer.outcome is None for answer in answers)
        visit.span.update(
            {
                semconv.TOOLS_CALLS: taken,
                semconv.TOOLS_FAILED: len(failed),
                semconv.TOOLS_LIMIT_REACHED: limited,
            }
        )
        if failed and self.config.on_tool_error == "fail":
            raise ToolFailed(f"tool {failed[0].call['name']} failed")
        return NodeResult(
            output={
                "calls": taken,
                "failed": len(failed),
                "not_executed": sum(answer.outcome is None for answer in answers),
                "limit_reached": limited,
                "results": [_result(answer) for answer in answers],
            },
            label="limit" if limited else "done",
            change=Change(messages=tuple(_message(answer, self.id) for answer in answers), tool_calls=taken),
        )

    async def _run_calls(self, calls: list[ToolCall], visit: "Visit") -> list[_Answer]:
        """Run the calls up to the limit, at most `max_parallel` at once. Answers are in the order of the calls."""
        room = self._take(len(calls), visit)
        gate = asyncio.Semaphore(self.config.max_parallel)

        async def run(call: ToolCall) -> _Answer:
            async with gate:
                return _Answer(call, await self._run_call(call, visit))

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run(call), name=f"tool {call['name']}") for call in calls[:room]]
        return [task.result() for task in tasks] + [_Answer(call, None) for call in calls[room:]]

    def _take(self, wanted: int, visit: "Visit") -> int:
        return visit.context.take_tool_calls(self.id, wanted, self.config.max_tool_calls)

    async def _run_call(self, call: ToolCall, visit: "Visit") -> ToolOutcome:
        """Run one call with its retries; each retry counts against the limit."""
        tools = {tool.spec.name: tool for tool in self.allowed(visit.context)}
        tool = tools.get(call["name"])
        attempt = 1
        while True:
            outcome = await call_tool(
                visit,
                tool,
                call,
                timeout_seconds=self.config.tool_timeout_seconds,
                max_result_bytes=self.config.max_result_bytes,
                is_streamed=self.node.stream,
            )
            repeatable = tool is not None and tool.effect != "write" and not outcome.ok
            if not repeatable or not visit.may_repeat(attempt, outcome.error_type) or not self._take(1, visit):
                return replace(outcome, attempts=attempt)
            await visit.wait_before_retry(attempt, outcome.error_type or "", None)
            attempt += 1


def _open_calls(messages: list[Message]) -> list[ToolCall]:
    """The calls of the last assistant message that have no answer yet."""
    done: set[str] = set()
    for message in reversed(messages):
        if message["role"] == "tool":
            done.add(message["tool_call_id"])
        elif message["role"] == "assistant":
            return [call for call in message.get("tool_calls", ()) if call["id"] not in done]
    return []


def _message(answer: _Answer, node_id: str) -> Message:
    outcome = answer.outcome
    return Message(
        id=str(uuid7()),
        role="tool",
        content=outcome.text if outcome else LIMIT_REACHED,
        tool_call_id=answer.call["id"],
        is_error=outcome is None or not outcome.ok,
        node_id=node_id,
    )


def _result(answer: _Answer) -> JsonObject:
    outcome = answer.outcome
    return {
        "id": answer.call["id"],
        "tool": answer.call["name"],
        "ok": outcome is not None and outcome.ok,
        "error_type": outcome.error_type if outcome else "limit_exceeded",
    }
