"""The node type `model`: calls a language model once."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from uuid_utils.compat import uuid7

from engine.documents.framing import frame, passage
from engine.expressions.prompts import parse as parse_prompt
from engine.graph import JsonObject, Node, Retry
from engine.nodes.base import (
    APPENDS_MESSAGES,
    PROMPT,
    SYSTEM_PROMPT,
    TRANSIENT,
    ModelUse,
    NodeBase,
    NodeConfig,
    NodeResult,
    choose_model,
    with_data,
)
from engine.resources import ChatModel, Message, ModelReply, ModelRequest, ModelSettings, ToolSpec, as_json
from engine.runtime.calls import call_model
from engine.runtime.state import Change, WorkflowState
from engine.tracing import semconv
from engine.usage import USAGE_FIELDS

if TYPE_CHECKING:
    from engine.runtime.context import ExecutionContext
    from engine.runtime.visit import Visit

NOT_EXECUTED = "not executed"


class ModelConfig(NodeConfig):
    """The model, its messages and its settings. Null settings use the graph's `model_defaults`, then the server's."""

    provider: str | None = None
    """Provider of the model; null means the graph's default, then the server's."""
    model: str | None = None
    """Name of the model; null means the graph's default, then the server's."""
    system_message: Annotated[str, SYSTEM_PROMPT] = ""
    """Sent as the system message."""
    prompt: Annotated[str | None, PROMPT] = None
    """Sent as a user message after the history."""
    include_history: bool = True
    """Send the messages of the execution."""
    include_context: bool = True
    """Send the conversation's summary and the retrieved passages, framed as data."""
    append_to_messages: bool = True
    """Append the answer to the messages, so that later models see it."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """Sampling temperature."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Most output tokens of a call; null means 1,024 unless a default says otherwise."""
    top_p: float | None = Field(default=None, ge=0, le=1)
    """Nucleus sampling."""
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    """Penalty for frequent tokens."""
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    """Penalty for tokens that have occurred."""
    stop: list[str] = Field(default_factory=list, max_length=4)
    """Texts that end the answer."""
    seed: int | None = None
    """Seed for sampling, if the provider supports one."""
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None
    """Service tier to ask for, where the provider has it; the tier that answers is paid for. Null asks for none."""
    response_schema: JsonObject | None = None
    """JSON Schema of the answer; the parsed answer is the output's `data`."""


class ModelNode(NodeBase[ModelConfig]):
    """Calls a model once per attempt. The tools nodes behind its `tool_calls` edge offer it their tools."""

    type = "model"
    title = "Model"
    description = "Calls a model, once per attempt. Label `tool_calls` if the answer contains tool calls, else `final`."
    category = "model"
    Config = ModelConfig
    default_retry = Retry(max_attempts=3, retry_on=[*TRANSIENT, "empty_response", "invalid_output"])
    default_timeout_seconds = 120
    allows_timeout = True
    streams = True
    calls_tools = True
    output_is_untrusted = True
    output_schema = {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "data": {},
            "message_id": {"type": "string"},
            "finish_reason": {"type": ["string", "null"]},
            "truncated": {"type": "boolean"},
            "provider": {"type": "string"},
            "model": {"type": "string"},
            "tool_calls": {"type": "array"},
            "usage": {"type": ["object", "null"]},
        },
    }

    def __init__(self, node: Node, config: ModelConfig) -> None:
        super().__init__(node, config)
        self._system = parse_prompt(config.system_message)
        self._prompt = parse_prompt(config.prompt) if config.prompt is not None else None

    @classmethod
    def labels(cls, config: ModelConfig) -> tuple[str, ...]:
        return ("tool_calls", "final")

    @classmethod
    def output_schema_for(cls, config: ModelConfig) -> JsonObject:
        no_fields: JsonObject = {"properties": {}}
        return with_data(cls.output_schema, no_fields if config.response_schema is None else config.response_schema)

    @classmethod
    def json_schemas(cls, config: ModelConfig) -> Mapping[str, JsonObject]:
        return {} if config.response_schema is None else {"/response_schema": config.response_schema}

    @classmethod
    def ordered_writes(cls, config: ModelConfig) -> tuple[str, ...]:
        return (APPENDS_MESSAGES,) if config.append_to_messages else ()

    @classmethod
    def model_use(cls, config: ModelConfig) -> ModelUse:
        return ModelUse(config.provider, config.model, config.max_tokens, config.service_tier)

    @classmethod
    def sees_tool_answers(cls, config: ModelConfig) -> bool:
        return config.include_history and config.append_to_messages

    async def run(self, state: WorkflowState, visit: "Visit") -> NodeResult:
        model = choose_model(visit.context, self.model_use(self.config))
        request = self._request(state, visit)
        message_id = str(uuid7())
        visit.span.update(
            {semconv.MODEL_MESSAGES: len(request.messages), semconv.MODEL_TOOLS: len(request.tools)},
        )
        reply = await call_model(visit, model, request, stream_as=message_id if self.node.stream else None)
        calls = reply.tool_calls if request.tools else ()
        if dropped := len(reply.tool_calls) - len(calls):
            visit.span[semconv.MODEL_CALLS_DROPPED] = dropped
        message = Message(id=message_id, role="assistant", content=reply.text, tool_calls=list(calls), node_id=self.id)
        return NodeResult(
            output=_output(message, reply, model),
            label="tool_calls" if calls else "final",
            change=Change(messages=(message,) if self.config.append_to_messages else ()),
        )

    def _request(self, state: WorkflowState, visit: "Visit") -> ModelRequest:
        messages = answered(state["messages"]) if self.config.include_history else []
        if self._prompt is not None:
            messages.append(Message(id="prompt", role="user", content=self._prompt.render(visit.names)))
        if self.config.include_context:
            messages = _with_context(messages, state)
        return ModelRequest(
            system=self._system.render(visit.names),
            messages=messages,
            tools=self._tools(visit.context),
            settings=self._settings(visit.context),
        )

    def _tools(self, context: "ExecutionContext") -> list[ToolSpec]:
        specs = {spec.name: spec for node in self.tool_nodes for spec in node.offered_tools(context)}
        return list(specs.values())

    def _settings(self, context: "ExecutionContext") -> ModelSettings:
        config, defaults = self.config, context.graph.model_defaults
        return ModelSettings(
            max_tokens=self.model_use(config).most_output_tokens(defaults),
            temperature=config.temperature if config.temperature is not None else defaults.temperature,
            top_p=config.top_p if config.top_p is not None else defaults.top_p,
            frequency_penalty=config.frequency_penalty,
            presence_penalty=config.presence_penalty,
            stop=tuple(config.stop),
            seed=config.seed,
            response_schema=config.response_schema,
            service_tier=config.service_tier,
        )


def answered(messages: list[Message]) -> list[Message]:
    """The messages with an answer after every tool call, if need be "not executed": providers refuse open calls.

    The messages are read backwards because some models reuse ids: an answer belongs to the nearest call before it.
    """
    answers: dict[str, Message] = {}
    turned: list[Message] = []
    for message in reversed(messages):
        if message["role"] == "tool":
            answers[message["tool_call_id"]] = message
            continue
        ids = [call["id"] for call in reversed(message.get("tool_calls", ()))]
        turned += [answers.pop(id_) if id_ in answers else not_executed(id_) for id_ in ids]
        turned.append(message)
    return turned[::-1]


def not_executed(call_id: str) -> Message:
    """The answer to a tool call that was not executed."""
    return Message(id=str(uuid7()), role="tool", content=NOT_EXECUTED, tool_call_id=call_id, is_error=True)


def _with_context(messages: list[Message], state: WorkflowState) -> list[Message]:
    """Put the framed passages and summary before the last user message: data never goes into the system message."""
    passages = [
        passage(str(document["source"]), str(document["text"]))
        for found in state["retrieval_context"].values()
        for document in found["documents"]
    ]
    summary = state["conversation_summary"]
    framed = frame("".join(passages), str(summary["text"]) if summary else None)
    if not framed:
        return messages
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if message["role"] == "user":
            content = message.get("content", "")
            part: JsonObject = {"type": "text", "text": framed}
            sent: Message = {**message, "content": framed + content if isinstance(content, str) else [part, *content]}
            return [*messages[:index], sent, *messages[index + 1 :]]
    return [*messages, Message(id="context", role="user", content=framed)]


def _output(message: Message, reply: ModelReply, model: ChatModel) -> JsonObject:
    return {
        "text": reply.text,
        "data": reply.data,
        "message_id": message["id"],
        "finish_reason": reply.finish_reason,
        "truncated": reply.finish_reason == "length",
        "provider": model.provider,
        "model": reply.model or model.model,
        "tool_calls": [as_json(call) for call in message["tool_calls"]],
        "usage": reply.usage.model_dump(include=USAGE_FIELDS) if reply.usage else None,
    }
