"""All span names, attribute keys and event names that we emit, with units and meanings.

`gen_ai.*`, `openai.*`, `error.type` and `server.*` follow the OpenTelemetry GenAI conventions 0.1.0, which are based on
the semantic conventions 1.45; `RENAMED` lists their former names. Our own keys start with `workflow.`. Dashboards,
queries and tests are checked against this file.
"""

from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version

from engine.usage import PART_FIELDS, TOKEN_KINDS, TokenKind

SCOPE_ENGINE = "spanloom.engine"
SCOPE_GENAI = "spanloom.genai"
SCOPE_PREFIX = "spanloom."
SCOPE_VERSION = version("spanloom")
SCHEMA_URL = "https://opentelemetry.io/schemas/gen-ai/0.1.0"
"""The conventions that the names of both scopes follow."""

SPAN_WORKFLOW = "invoke_workflow"
"""An attempt of an execution: the root of its tree."""
SPAN_NODE = "execute_node"
"""An attempt of a node's visit, named `execute_node <id>`."""
SPAN_TOOL = "execute_tool"
"""An attempt of a tool call, named `execute_tool <tool>`."""
SPAN_CHAT = "chat"
"""A call to a model, named `chat <model>`."""
SPAN_RETRIEVAL = "retrieval"
"""A query to a retriever, named `retrieval <retriever>`."""


EVENT_PREFIX = "workflow."
"""The names of events that are journalled begin so."""


class Event(StrEnum):
    """Names of our events: log records in the context of their span."""

    QUEUED = "workflow.execution.queued"
    """The execution was accepted and waits for a worker."""
    STARTED = "workflow.execution.started"
    """The execution began."""
    COMPLETED = "workflow.execution.completed"
    """The execution completed."""
    FAILED = "workflow.execution.failed"
    """The execution failed."""
    CANCELLED = "workflow.execution.cancelled"
    """The execution was cancelled."""
    PAUSED = "workflow.execution.paused"
    """The execution paused."""
    RESUMED = "workflow.execution.resumed"
    """A later attempt of the execution began."""
    BUDGET_WARNING = "workflow.budget.warning"
    """80 % of a budget is spent."""
    BUDGET_EXCEEDED = "workflow.budget.exceeded"
    """The next model call could exceed a budget."""
    NODE_RETRYING = "workflow.node.retrying"
    """An attempt of a node failed and is retried."""
    EVALUATION_RESULT = "gen_ai.evaluation.result"
    """Somebody has given the execution a score."""


class Operation(StrEnum):
    """Values of `gen_ai.operation.name`; the kind of a span."""

    WORKFLOW = "invoke_workflow"
    CHAT = "chat"
    TOOL = "execute_tool"
    RETRIEVAL = "retrieval"


class NodeStatus(StrEnum):
    """Values of `workflow.node.status`."""

    COMPLETED = "completed"
    FAILED = "failed"
    RETRYING = "retrying"
    CANCELLED = "cancelled"
    PAUSED = "paused"


class Waste(StrEnum):
    """Values of `workflow.call.waste`: why a paid call was wasted."""

    RETRIED = "retried"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute key with its OpenTelemetry type, its unit (empty if none) and its meaning."""

    key: str
    type: str
    unit: str
    meaning: str


ATTRIBUTES: dict[str, Attribute] = {}


def _key(key: str, type_: str, meaning: str, unit: str = "") -> str:
    ATTRIBUTES[key] = Attribute(key, type_, unit, meaning)
    return key


def _count_of(kind: TokenKind) -> str:
    return f"{kind.includes} included" if kind.includes else kind.meaning


def _sum_of(kind: TokenKind) -> str:
    return "sum over model calls" + (f", {kind.includes} included" if kind.includes else "")


# Identity: on each of our spans and events.
WORKFLOW_NAME = _key("workflow.name", "string", "template key, definition slug, name of the graph, or `chat`")
WORKFLOW_SOURCE = _key("workflow.source", "string", "template, definition, graph or chat")
EXECUTION_ID = _key("workflow.execution.id", "string", "UUIDv7 of the execution")
EXECUTION_ATTEMPT = _key("workflow.execution.attempt", "int", "attempt of the execution, from 1")
OWNER_ID = _key("workflow.owner.id", "string", "tenant the execution belongs to")
TEMPLATE_ID = _key("workflow.template.id", "string", "id of the template, if one was used")
TEMPLATE_UNSAVED = _key("workflow.template.unsaved", "boolean", "whether the template came with the request")
TEMPLATE_VERSION = _key("workflow.template.version", "int", "version of the template")
RECORD_LEVEL = _key("workflow.record_level", "string", "which spans are stored as rows; absent if `full`")
SANITIZED = _key("workflow.sanitized", "string[]", "attributes whose value was cut, repaired or redacted when stored")

# Root, at start.
OPERATION = _key("gen_ai.operation.name", "string", "invoke_workflow, chat, execute_tool, retrieval")
AGENT_NAME = _key("gen_ai.agent.name", "string", "same as workflow.name: to the conventions a workflow is an agent")
FORMER_WORKFLOW_NAME = _key("gen_ai.workflow.name", "string", "former name of gen_ai.agent.name; on spans only")
CONVERSATION_ID = _key("gen_ai.conversation.id", "string", "conversation of the execution")
DEFINITION_ID = _key("workflow.definition.id", "string", "id of the definition, if one was used")
GRAPH_HASH = _key("workflow.graph.hash", "string", "content hash of the effective graph")
STREAMING = _key("workflow.streaming", "boolean", "whether the caller that started the execution reads events")
TRIGGER = _key("workflow.trigger", "string", "api, chat, cli, resume, retry, parent, schedule")
CORRELATION_ID = _key("workflow.correlation.id", "string", "id by which callers find the execution in their own logs")
NESTED = _key("workflow.nested", "boolean", "whether the workflow runs inside another execution")
RETRY_OF = _key("workflow.execution.retry_of", "string", "id of the finished execution that this one runs again")
RESUME_REASON = _key("workflow.resume.reason", "string", "why a later attempt began: answer, timer, crash, shutdown")
TAGS = _key("workflow.tags", "string", "the request's tags as JSON")
PARAMS = _key("workflow.params", "string", "the template's parameters as JSON, secrets redacted; in spans their hashes")
QUEUED_AT = _key("workflow.queued_at", "int", "when the execution was accepted", "ns since the epoch")
STARTED_AT = _key("workflow.started_at", "int", "when the first attempt began", "ns since the epoch")

# Root, at end, and the terminal event.
EXECUTION_STATUS = _key("workflow.execution.status", "string", "completed, failed, cancelled, paused")
ERROR_TYPE = _key("error.type", "string", "type of the error")
ERROR_CLASS = _key("workflow.error.class", "string", "who has to act: caller, workflow, provider, tool, engine")
ERROR_MESSAGE = _key("workflow.error.message", "string", "message of the error, secrets redacted")
ERROR_NODE_ID = _key("workflow.error.node_id", "string", "id of the node that failed")
CANCEL_REASON = _key("workflow.cancel.reason", "string", "reason of the cancellation")
DURATION_MS = _key("workflow.duration_ms", "int", "duration of the execution", "ms")
SUM_TOKENS = {kind.field: _key(f"workflow.usage.{kind.field}", "int", _sum_of(kind), "{token}") for kind in TOKEN_KINDS}
"""Key of the sum over all model calls, by field of `Usage`."""

COST_NANO_USD = _key("workflow.cost.nano_usd", "int", "cost of the call; on the root the sum of its calls", "nano-USD")
INPUT_COST_NANO_USD = _key("workflow.cost.input_nano_usd", "int", "the part of the call's cost for input", "nano-USD")
UNFINISHED_CALLS = _key("workflow.unfinished_calls", "int", "model calls cut off by a crash, cost unknown")
COST_UPPER_NANO_USD = _key("workflow.cost.upper_nano_usd", "int", "upper limit of the total cost", "nano-USD")
UNPRICED_CALLS = _key("workflow.cost.unpriced_calls", "int", "model calls to models without a price")
UNMETERED_CALLS = _key("workflow.cost.unmetered_calls", "int", "model calls without usage: their cost is unknown")
FAILED_CALLS = _key("workflow.failed_calls", "int", "model calls that failed, whatever they cost")
ASSUMED_CALLS = _key("workflow.cost.assumed_calls", "int", "model calls at a price that their server may not have")
WASTE_NANO_USD = _key("workflow.cost.waste_nano_usd", "int", "cost of wasted model calls", "nano-USD")
MODEL_CALLS = _key("workflow.model_calls", "int", "calls to providers, retries included")
TOOL_CALLS = _key("workflow.tool_calls", "int", "tool calls, retries included")
NODES_TOTAL = _key("workflow.nodes.total", "int", "node visits")
NODES_FAILED = _key("workflow.nodes.failed", "int", "node visits that failed, handled or not")
NODES_RETRIED = _key("workflow.nodes.retried", "int", "node attempts that were retried")
TIME_TO_FIRST_TOKEN = _key("workflow.time_to_first_token", "double", "from start to the first streamed token", "s")
SPANS = _key("workflow.spans", "int", "seal: spans journalled at this record level, the root included")
SPANS_HASH = _key("workflow.spans.hash", "string", "seal: SHA-256 over the sorted span ids")
TIME_QUEUE = _key("workflow.time.queue", "double", "time ledger: waiting to start", "s")
TIME_MODEL = _key("workflow.time.model", "double", "time ledger: at least one model call ran", "s")
TIME_TOOL = _key("workflow.time.tool", "double", "time ledger: no model call, but a tool or retrieval ran", "s")
TIME_RETRY = _key("workflow.time.retry", "double", "time ledger: waiting before a retry", "s")
TIME_HUMAN = _key("workflow.time.human", "double", "time ledger: waiting for a person", "s")
TIME_ENGINE = _key("workflow.time.engine", "double", "time ledger: everything else", "s")

# Node spans, and in part the leaves below them.
NODE_ID = _key("workflow.node.id", "string", "id of the node")
NODE_TYPE = _key("workflow.node.type", "string", "type of the node")
NODE_VISIT = _key("workflow.node.visit", "int", "visit of the node, from 1")
NODE_ATTEMPT = _key("workflow.node.attempt", "int", "attempt within the visit, from 1")
NODE_STATUS = _key("workflow.node.status", "string", "completed, failed, retrying, cancelled, paused")
NODE_PATH = _key("workflow.node.path", "string", "ids of the enclosing nodes and of the node")
NODE_LABEL = _key("workflow.node.label", "string", "label that the node returned")
NODE_DEGRADED = _key("workflow.node.degraded", "boolean", "whether the node continued after a failure")
EDGE_TAKEN = _key("workflow.edge.taken", "string", "id of the edge taken; for a fork all ids, separated by commas")
CONDITION_RESULT = _key("workflow.condition.result", "string", "label that a conditional node chose")
LOOP_ITERATION = _key("workflow.loop.iteration", "int", "iterations of the loop so far")
MEMORY_WINDOW = _key("workflow.memory.window", "int", "newest messages kept", "{message}")
MEMORY_SUMMARIZED = _key("workflow.memory.summarized", "int", "messages put into the summary", "{message}")
MEMORY_TRUNCATED = _key("workflow.memory.truncated", "int", "messages removed", "{message}")
RETRIEVAL_DOCUMENTS = _key("workflow.retrieval.documents", "int", "documents found")
RETRIEVAL_SIZE_BYTES = _key("workflow.retrieval.size_bytes", "int", "size of the texts found", "By")
RETRIEVAL_TOP_SCORE = _key("workflow.retrieval.top_score", "double", "score of the best hit, 0..1")
MODEL_MESSAGES = _key("workflow.model.messages", "int", "messages sent", "{message}")
MODEL_TOOLS = _key("workflow.model.tools", "int", "tools bound to the call")
MODEL_CALLS_DROPPED = _key("workflow.model.calls_dropped", "int", "tool calls ignored for lack of tools")
TOOLS_CALLS = _key("workflow.tools.calls", "int", "tool calls that the node handled")
TOOLS_FAILED = _key("workflow.tools.failed", "int", "tool calls of the node that failed")
TOOLS_LIMIT_REACHED = _key("workflow.tools.limit_reached", "boolean", "whether calls were skipped because of the limit")
HANDLER_SOURCE = _key("workflow.error_handler.source", "string", "node whose failure led to the handler")
HANDLER_ERROR_TYPE = _key("workflow.error_handler.error_type", "string", "error type of that failure")
HANDLER_RETRY = _key("workflow.error_handler.retry", "int", "retries of that node in a row, with this one")
HANDLER_ACTION = _key("workflow.error_handler.action", "string", "retry, continue, clear_errors, stop")
DELAY_SECONDS = _key("workflow.delay.seconds", "double", "length of the delay", "s")
DELAY_PARKED = _key("workflow.delay.parked", "boolean", "whether the execution pauses during the delay")
APPROVAL_ID = _key("workflow.approval.id", "string", "UUIDv5 of execution id, node path and visit")
APPROVAL_CHOICE = _key("workflow.approval.choice", "string", "the choice that was made, or the label of the timeout")
APPROVAL_WAIT = _key("workflow.approval.wait_seconds", "double", "from the question to its answer", "s")
VARIABLE_OPERATION = _key("workflow.variable.operation", "string", "set, get, append, increment, decrement")
VARIABLE_NAME = _key("workflow.variable.name", "string", "name of the variable")
VARIABLE_TYPE = _key("workflow.variable.type", "string", "JSON type of the value; never the value")

# Leaf spans.
PROVIDER = _key("gen_ai.provider.name", "string", "openai, anthropic, gcp.gemini, …")
REQUEST_MODEL = _key("gen_ai.request.model", "string", "model that was requested")
REQUEST_TEMPERATURE = _key("gen_ai.request.temperature", "double", "sampling temperature")
REQUEST_TOP_P = _key("gen_ai.request.top_p", "double", "nucleus sampling")
REQUEST_FREQUENCY_PENALTY = _key("gen_ai.request.frequency_penalty", "double", "penalty for frequent tokens")
REQUEST_PRESENCE_PENALTY = _key("gen_ai.request.presence_penalty", "double", "penalty for tokens that have occurred")
REQUEST_STOP_SEQUENCES = _key("gen_ai.request.stop_sequences", "string[]", "texts that end the answer")
REQUEST_SEED = _key("gen_ai.request.seed", "int", "seed for sampling")
REQUEST_STREAM = _key("gen_ai.request.stream", "boolean", "true if the answer was asked for as a stream, else absent")
OUTPUT_TYPE = _key("gen_ai.output.type", "string", "json, if the request has a response schema, else absent")
PROMPT_NAME = _key("gen_ai.prompt.name", "string", "key of the template, whose prompts the call uses")
PROMPT_VERSION = _key("gen_ai.prompt.version", "string", "version of that template")
REQUEST_MAX_TOKENS = _key("gen_ai.request.max_tokens", "int", "largest number of output tokens allowed", "{token}")
RESPONSE_MODEL = _key("gen_ai.response.model", "string", "model that answered")
RESPONSE_ID = _key("gen_ai.response.id", "string", "the provider's id of the response")
FINISH_REASONS = _key("gen_ai.response.finish_reasons", "string[]", "why the model stopped writing")
TIME_TO_FIRST_CHUNK = _key("gen_ai.response.time_to_first_chunk", "double", "from the call to its first chunk", "s")
CALL_TOKENS = {
    kind.field: _key(f"gen_ai.usage.{kind.genai_key}", "int", _count_of(kind), "{token}") for kind in TOKEN_KINDS
}
"""Key on the span of a model call, by field of `Usage`."""

FORMER_CACHE_WRITE = _key(
    "gen_ai.usage.cache_creation.input_tokens", "int", "former name of gen_ai.usage.cache_write.input_tokens", "{token}"
)

CALL_PARTS = {
    name: _key(f"workflow.call.{name}", "int", "a part of the counts that has its own price", "{token}")
    for name in PART_FIELDS
}
"""Key on the span of a model call, by field of `CallUsage`."""

USAGE_REJECTED = _key(
    "workflow.usage.rejected", "boolean", "whether the provider's counts were impossible, so that usage is unknown"
)
USAGE_PARTIAL = _key(
    "workflow.usage.partial", "boolean", "whether the answer broke off, so that the provider may bill more tokens"
)
USAGE_UNREAD = _key("workflow.usage.unread_keys", "string[]", "unknown keys of the provider's usage")
GENAI_COST = _key("gen_ai.usage.cost", "double", "the cost for other tools; our own is workflow.cost.nano_usd", "USD")
COST_SOURCE = _key(
    "workflow.cost.source",
    "string",
    "price_table, assumed (the server is not the provider's), override, provider, demo (not real money) or none",
)
UNPRICED_REASON = _key(
    "workflow.cost.unpriced_reason",
    "string",
    "unknown_usage, unknown_model, unknown_tier, unknown_kind, foreign_server, impossible_amount",
)
PROVIDER_COST_NANO_USD = _key(
    "workflow.cost.provider_nano_usd", "int", "cost of the call as the provider reported it", "nano-USD"
)
SERVICE_TIER = _key("workflow.call.service_tier", "string", "tier in which the provider says it served the call")
REQUEST_SERVICE_TIER = _key("openai.request.service_tier", "string", "service tier that was asked for, of OpenAI's API")
RESPONSE_SERVICE_TIER = _key("openai.response.service_tier", "string", "service tier of the answer, of OpenAI's API")
RESPONSE_FINGERPRINT = _key(
    "openai.response.system_fingerprint", "string", "configuration that answered, of OpenAI's API"
)
PRICE_VERSION = _key("workflow.cost.price_version", "string", "version of the price list")
CALL_WASTE = _key("workflow.call.waste", "string", "why the call was wasted: retried, failed, cancelled")
SERVER_ADDRESS = _key("server.address", "string", "host of the provider")
SERVER_PORT = _key("server.port", "int", "port of the provider")
TOOL_NAME = _key("gen_ai.tool.name", "string", "name of the tool")
TOOL_CALL_ID = _key("gen_ai.tool.call.id", "string", "the model's id of the call")
TOOL_TYPE = _key("gen_ai.tool.type", "string", "function")
TOOL_DESCRIPTION = _key("gen_ai.tool.description", "string", "what the tool does, as the model is told")
DATA_SOURCE_ID = _key("gen_ai.data_source.id", "string", "name of the retriever")
RETRIEVAL_TOP_K = _key("gen_ai.retrieval.top_k", "int", "most documents that were asked for")

# Content: only if the capture setting allows it, on spans and events that go to trace stores; in no record.
SYSTEM_INSTRUCTIONS = _key("gen_ai.system_instructions", "string", "content: the system message, as JSON")
INPUT_MESSAGES = _key("gen_ai.input.messages", "string", "content: the messages that were sent, as JSON")
OUTPUT_MESSAGES = _key("gen_ai.output.messages", "string", "content: the answer, as JSON")
TOOL_DEFINITIONS = _key("gen_ai.tool.definitions", "string", "content: the tools that the model could call, as JSON")
TOOL_ARGUMENTS = _key("gen_ai.tool.call.arguments", "string", "content: the arguments of the call, as JSON")
TOOL_RESULT = _key("gen_ai.tool.call.result", "string", "content: what the tool returned to the model")
RETRIEVAL_QUERY = _key("gen_ai.retrieval.query.text", "string", "content: the query")
RETRIEVED = _key("gen_ai.retrieval.documents", "string", "content: the passages that were found, as JSON")
INPUT_VALUE = _key("input.value", "string", "content: the input, on the outermost span and on retrievals")
OUTPUT_VALUE = _key("output.value", "string", "content: the answer, on the outermost span and on retrievals")
CONTENT_CUT = _key("workflow.content.cut", "string[]", "the content attributes of the span that were cut to 64 KiB")

# For other tools: on spans that leave for trace stores, in no record; telemetry/signals/peers.py adds all but the user.
USER_ID = _key("user.id", "string", "the caller's user; a hash, unless the capture setting allows content on spans")
SESSION_ID = _key("session.id", "string", "the conversation of the execution")
OPENINFERENCE_KIND = _key("openinference.span.kind", "string", "CHAIN, RETRIEVER or TOOL; absent on model calls")
COST_USD = _key(
    "workflow.cost.usd", "double", "cost of the execution, for people; workflow.cost.nano_usd is exact", "USD"
)
METADATA = _key("metadata", "string", "the request's tags as JSON")
TAG_PREFIX = "workflow.tag."
MLFLOW_TAG_PREFIX = "mlflow.traceTag."
MLFLOW_OWN_TAGS = "mlflow."
"""MLflow's own tags of a trace begin so, such as its name and where its files are."""
TAG = _key(f"{TAG_PREFIX}<name>", "string", "a tag of the request")
MLFLOW_TAG = _key(
    f"{MLFLOW_TAG_PREFIX}<name>", "string", "a tag of the request, unless its name is one of MLflow's own"
)
MLFLOW_SPAN_TYPE = _key("mlflow.spanType", "string", "TOOL on tool calls")
MLFLOW_COST = _key("mlflow.llm.cost", "string", "JSON with input_cost, output_cost and total_cost of the call", "USD")
LLM_REASONING_TOKENS = _key(
    "llm.token_count.completion_details.reasoning", "int", "same as gen_ai.usage.reasoning.output_tokens", "{token}"
)
PHOENIX_PROJECT = "openinference.project.name"
"""Attribute of the resource: the project in which Phoenix shows the traces."""
EXCEPTION_ON_SPAN = "exception"
"""The event on a failed span."""

PEER_KEYS = frozenset(
    {
        USER_ID,
        SESSION_ID,
        OPENINFERENCE_KIND,
        COST_USD,
        METADATA,
        TAG,
        MLFLOW_TAG,
        MLFLOW_SPAN_TYPE,
        MLFLOW_COST,
        LLM_REASONING_TOKENS,
    }
)
"""Attributes for other tools alone: no record holds them."""
PEER_PREFIXES = (TAG_PREFIX, MLFLOW_TAG_PREFIX)

# Events.
DUE_AT = _key("workflow.due_at", "int", "when the pause ends without an answer", "ns since the epoch")
EVALUATION_NAME = _key("gen_ai.evaluation.name", "string", "what was judged, such as rating")
EVALUATION_SCORE_VALUE = _key("gen_ai.evaluation.score.value", "double", "the score, if it is a number")
EVALUATION_SCORE_LABEL = _key("gen_ai.evaluation.score.label", "string", "the score, if it is a word")
SCORE_SOURCE = _key("workflow.score.source", "string", "who gave the score: human, model or code")
EVENT_ID = _key(
    "workflow.event.id", "string", "UUIDv5 of execution, attempt, event name and sequence; of a score a UUIDv7"
)
EVENT_SEQ = _key("workflow.event.seq", "int", "order within the attempt, from 1")
RETRY_DELAY_MS = _key("workflow.retry.delay_ms", "int", "delay before the next attempt", "ms")
BUDGET_LIMIT = _key("workflow.budget.limit", "int", "size of the budget", "tokens or nano-USD")
BUDGET_SPENT = _key("workflow.budget.spent", "int", "amount spent so far", "tokens or nano-USD")
BUDGET_UNIT = _key("workflow.budget.unit", "string", "tokens or nano_usd")
EXCEPTION_TYPE = _key("exception.type", "string", "class of an exception, with its module")
EXCEPTION_MESSAGE = _key("exception.message", "string", "message of an exception, secrets redacted")

# Added on the way to the Collector; it stands in no record.
SIGNAL_SIGNATURE = _key("workflow.signal.signature", "string", "tells the receiver that this deployment said it")

CONTENT_KEYS = frozenset(
    {
        SYSTEM_INSTRUCTIONS,
        INPUT_MESSAGES,
        OUTPUT_MESSAGES,
        TOOL_DEFINITIONS,
        TOOL_ARGUMENTS,
        TOOL_RESULT,
        RETRIEVAL_QUERY,
        RETRIEVED,
        INPUT_VALUE,
        OUTPUT_VALUE,
        CONTENT_CUT,
    }
)
"""Attributes that go to trace stores only, and what is said about them."""

TRACE_ONLY_KEYS = CONTENT_KEYS | {USER_ID}
"""What the engine says to trace stores alone, and may be about a person."""

CONTENT_EVENT = "gen_ai.client.inference.operation.details"
"""The event with the content of a call, if the capture setting asks for events. It is exported and not journalled."""
EXCEPTION_EVENT = "gen_ai.client.inference.exception"
"""The event of a model call that failed. It is exported and not journalled."""
FORMER_EXCEPTION_EVENT = "gen_ai.client.operation.exception"


@dataclass(frozen=True, slots=True)
class Renamed:
    """A name of ours that the GenAI conventions have changed. Both are emitted until the former one is turned off."""

    name: str
    former: str
    since: str
    """First release of the conventions with the new name."""
    readers: str
    """Who reads the former name."""


RENAMED_ATTRIBUTES = (
    Renamed(AGENT_NAME, FORMER_WORKFLOW_NAME, "0.1.0", "saved searches in Jaeger and Grafana Tempo"),
    Renamed(CALL_TOKENS["cache_write_tokens"], FORMER_CACHE_WRITE, "0.1.0", "Langfuse, Phoenix, MLflow"),
)
RENAMED_EVENTS = (Renamed(EXCEPTION_EVENT, FORMER_EXCEPTION_EVENT, "0.1.0", "rules in log stores, from 1.41 on"),)
FORMER_TOKEN_METRIC = "gen_ai.client.token.usage"
RENAMED_METRICS = tuple(
    Renamed(f"gen_ai.client.inference.usage.{kind.genai_key}", FORMER_TOKEN_METRIC, "0.1.0", "dashboards for 1.41")
    for kind in TOKEN_KINDS
)
RENAMED = (*RENAMED_ATTRIBUTES, *RENAMED_EVENTS, *RENAMED_METRICS)
"""Every name that has a former one. `OTEL_SEMCONV_STABILITY_OPT_IN=gen_ai_latest_experimental` turns those off."""
TERMINAL_EVENTS = frozenset({Event.COMPLETED, Event.FAILED, Event.CANCELLED})
