"""WorkflowTracker: says what an execution does, through the OpenTelemetry API. Three calls: start, complete, fail.

Below the root it makes the spans of nodes, model calls, tool calls and retrievals, and adds up what they used. Usage
and cost are recorded once, on the span of the model call; everything above is a sum made here.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import NAMESPACE_URL

import orjson
from opentelemetry._logs import Logger, LoggerProvider, LogRecord, NoOpLoggerProvider, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NoOpTracerProvider,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    TracerProvider,
    format_span_id,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue
from uuid_utils.compat import uuid5

from engine.identity import ExecutionIdentity
from engine.ledger import Root
from engine.pause import Paused
from engine.resources import ChatModel, CostSource, ModelReply, ModelRequest, Price, Prices
from engine.result import Status as ExecutionStatus
from engine.result import Usage
from engine.security.redaction import error_text, redact
from engine.tracing import semconv
from engine.tracing.semconv import Event, NodeStatus, Operation, Waste
from engine.tracing.time_ledger import Phase, TimeLedger
from engine.usage import Carried, Totals, Unfinished

Attributes = dict[str, AttributeValue]

FREE_REFUSALS = frozenset(
    {"rate_limited", "overloaded", "auth", "bad_request", "context_too_long", "model_not_found", "resource_missing"}
)
"""Errors with which a provider refuses a call before doing any work: the call cost nothing."""

SHUTDOWN_ERROR = "shutdown"
"""`error.type` of the root span of an attempt whose process stopped before the execution ended."""

LOST_ERROR = "engine_lost"
"""`error.type` of an attempt whose process is gone; the execution's own where nobody goes on with it."""

EVENT_NAMESPACE = uuid5(NAMESPACE_URL, "urn:spanloom:event")


@dataclass(frozen=True, slots=True)
class Tracing:
    """Tracers of our two scopes and the logger of our events."""

    engine: Tracer
    genai: Tracer
    events: Logger

    @classmethod
    def over(cls, tracers: TracerProvider | None, loggers: LoggerProvider | None) -> "Tracing":
        """From the given providers, never the global ones; without them nothing is recorded."""
        tracers = tracers or NoOpTracerProvider()
        loggers = loggers or NoOpLoggerProvider()
        return cls(
            engine=tracers.get_tracer(semconv.SCOPE_ENGINE),
            genai=tracers.get_tracer(semconv.SCOPE_GENAI),
            events=loggers.get_logger(semconv.SCOPE_ENGINE),
        )


class WorkflowTracker:
    """The books of one attempt of one execution."""

    def __init__(self, tracing: Tracing, prices: Prices, carried: Carried | None = None) -> None:
        """`carried`: what earlier attempts have used and said; totals and seal are of all attempts."""
        carried = carried or Carried()
        self._tracing = tracing
        self._prices = prices
        self.totals = carried.totals
        self.unfinished = carried.unfinished
        self.time = TimeLedger()
        self.duration_seconds = 0.0
        """Fixed when the execution ends."""
        self._span_ids = list(carried.span_ids)
        self._event_seq = 0

    def queue(self, identity: ExecutionIdentity) -> None:
        """Say that the execution was accepted and waits for a process."""
        self.identity = identity
        self._inside = Context()
        self._say(Event.QUEUED, identity_attributes(identity))

    def start(self, identity: ExecutionIdentity, beginning: "Beginning | None" = None) -> None:
        """Begin the root span and say `started`, or of a later attempt `resumed`."""
        beginning = beginning or Beginning()
        first, was_queued = identity.attempt == 1, identity.started_ns != identity.queued_ns
        self.identity = identity
        self._began, self._began_ns = time.perf_counter(), time.time_ns()
        age = beginning.age_seconds
        self._accepted = self._began - ((self._began_ns - identity.queued_ns) / 1e9 if age is None else age)
        self._root_ns = min(identity.queued_ns, self._began_ns) if first else self._began_ns
        self._paused_seconds = beginning.paused_seconds
        self._common = _common(identity)
        self._identity = identity_attributes(identity)
        self._parent = beginning.parent
        self._root = self._tracing.engine.start_span(
            f"{semconv.SPAN_WORKFLOW} {identity.workflow_name}",
            context=beginning.parent if beginning.parent is not None else Context(),
            attributes=self._identity,
            links=[Link(context) for context in beginning.links] or None,
            start_time=self._root_ns,
        )
        self._inside = set_span_in_context(self._root, Context())
        self._event_seq = 1 if first and was_queued else 0
        self._say(Event.STARTED if first else Event.RESUMED, self._identity | beginning.extra)

    def complete(self) -> None:
        """The execution completed: end the root span and say so."""
        self._close(ExecutionStatus.COMPLETED, Event.COMPLETED, {})

    def fail(self, error_type: str, message: str, node_id: str | None = None) -> None:
        """The execution failed: end the root span as an error and say so."""
        extra: Attributes = {semconv.ERROR_TYPE: error_type, semconv.ERROR_MESSAGE: error_text(message)}
        if node_id is not None:
            extra[semconv.ERROR_NODE_ID] = node_id
        self._root.set_status(Status(StatusCode.ERROR, error_text(message)))
        self._close(ExecutionStatus.FAILED, Event.FAILED, extra)

    def cancel(self, reason: str | None) -> None:
        """The execution was cancelled, which is no failure: end the root span and say so."""
        extra: Attributes = {} if reason is None else {semconv.CANCEL_REASON: error_text(reason)}
        self._close(ExecutionStatus.CANCELLED, Event.CANCELLED, extra)

    def pause(self, paused: Paused) -> None:
        """The execution waits for an answer or a time, and nobody works on it: end the root span and say so."""
        extra: Attributes = {semconv.DUE_AT: round(paused.due_at.timestamp() * 1e9)}
        if paused.approvals:
            approval = paused.approvals[0]
            extra |= {semconv.APPROVAL_ID: approval.approval_id, semconv.NODE_ID: approval.node_id}
        self._close(ExecutionStatus.PAUSED, Event.PAUSED, extra)

    def give_up(self, reason: str) -> None:
        """This process stops and another goes on: end the root span as an error; the execution has not ended."""
        self._ended(self._root, always_kept=True)
        self._root.set_status(Status(StatusCode.ERROR, reason))
        self._root.set_attribute(semconv.ERROR_TYPE, SHUTDOWN_ERROR)
        self._end_root()

    @property
    def root(self) -> Root | None:
        """The root span of this attempt; null where nothing is recorded."""
        context = self._root.get_span_context()
        if not context.is_valid:
            return None
        parent = get_current_span(self._parent).get_span_context() if self._parent is not None else None
        return Root(
            format_trace_id(context.trace_id),
            format_span_id(context.span_id),
            format_span_id(parent.span_id) if parent is not None and parent.is_valid else None,
            self.started_at,
        )

    @property
    def trace_id(self) -> str | None:
        """Hex, or null where nothing is recorded."""
        context = self._root.get_span_context()
        return format_trace_id(context.trace_id) if context.is_valid else None

    @property
    def root_span_id(self) -> str | None:
        """Hex, or null where nothing is recorded."""
        return root.span_id if (root := self.root) else None

    @property
    def started_at(self) -> datetime:
        """When the root span began, UTC."""
        return datetime.fromtimestamp(self._root_ns / 1e9, UTC)

    def elapsed_seconds(self) -> float:
        """Since the execution was accepted, by the monotonic clock."""
        return max(0.0, time.perf_counter() - self._accepted)

    def start_node(self, name: str, static: Attributes, visit: int, attempt: int) -> "NodeSpan":
        """Begin the span of one attempt of a visit; `static` is what the plan knows of the node."""
        if attempt == 1:
            self.totals.nodes_total += 1
        attributes = {**self._common, **static, semconv.NODE_VISIT: visit, semconv.NODE_ATTEMPT: attempt}
        span = self._tracing.engine.start_span(name, context=self._inside, attributes=attributes)
        return NodeSpan(self, span, attributes)

    def first_token(self) -> None:
        """A token of a streaming node reached the caller."""
        if self.totals.first_token_seconds is None:
            self.totals.first_token_seconds = self.elapsed_seconds()

    def budget(self, event: Event, *, limit: int, spent: int, unit: str) -> None:
        """Say that a budget is nearly used up, or is."""
        self._say(
            event,
            {**self._identity, semconv.BUDGET_LIMIT: limit, semconv.BUDGET_SPENT: spent, semconv.BUDGET_UNIT: unit},
        )

    def _leaf(
        self, node: "NodeSpan", name: str, kind: SpanKind, phase: Phase, attributes: Attributes
    ) -> tuple[Span, Attributes]:
        everything = {**self._common, **node.leaf_attributes, **attributes}
        context = set_span_in_context(node.span, Context())
        span = self._tracing.genai.start_span(name, context=context, kind=kind, attributes=everything)
        self.time.enter(phase)
        return span, everything

    def _ended(self, span: Span, *, always_kept: bool) -> None:
        """Count a span for the seal, if the record level keeps it."""
        if always_kept or self.identity.record_level != "summary":
            self._span_ids.append(span.get_span_context().span_id)

    def _close(self, status: ExecutionStatus, event: Event, extra: Attributes) -> None:
        self._ended(self._root, always_kept=True)
        duration = self.duration_seconds = self.elapsed_seconds()
        attributes = {semconv.EXECUTION_STATUS: status.value, **extra, **self._sums(duration)}
        self._root.set_attributes(attributes)
        self._say(event, {**self._identity, **attributes})
        self._end_root()

    def _end_root(self) -> None:
        self._root.end(max(self._root_ns, self._began_ns + int((time.perf_counter() - self._began) * 1e9)))

    def _sums(self, duration_seconds: float) -> Attributes:
        parts, totals, identity = self.time.settle(), self.totals, self.identity
        known = {
            semconv.TIME_QUEUE: (identity.started_ns - identity.queued_ns) / 1e9,
            semconv.TIME_MODEL: parts[Phase.MODEL] + totals.model_seconds,
            semconv.TIME_TOOL: parts[Phase.TOOL] + totals.tool_seconds,
            semconv.TIME_RETRY: parts[Phase.RETRY],
            semconv.TIME_HUMAN: self._paused_seconds,
        }
        engine = max(0.0, duration_seconds - sum(known.values()))
        return sums(totals, self.unfinished, self._span_ids, duration_seconds) | known | {semconv.TIME_ENGINE: engine}

    def _say(self, event: Event, attributes: Attributes, span: Span | None = None) -> None:
        self._event_seq += 1
        identity = self.identity
        self._tracing.events.emit(
            LogRecord(
                timestamp=time.time_ns(),
                context=self._inside if span is None else set_span_in_context(span, Context()),
                severity_number=SeverityNumber.INFO,
                event_name=event.value,
                attributes={
                    **attributes,
                    semconv.EVENT_ID: event_id(identity.execution_id, identity.attempt, event, self._event_seq),
                    semconv.EVENT_SEQ: self._event_seq,
                },
            )
        )


class NodeSpan:
    """The span of one attempt of one visit. Attributes set while it runs are written when it ends."""

    __slots__ = ("_extra", "_tracker", "_static", "span")

    def __init__(self, tracker: WorkflowTracker, span: Span, static: Attributes) -> None:
        self._tracker = tracker
        self.span = span
        self._static = static
        self._extra: Attributes = {}

    def __setitem__(self, key: str, value: AttributeValue) -> None:
        self._extra[key] = value

    def update(self, attributes: Attributes) -> None:
        """Set several attributes."""
        self._extra.update(attributes)

    @property
    def leaf_attributes(self) -> Attributes:
        """What the calls below say of their node."""
        return {key: self._static[key] for key in _LEAF_KEYS}

    def complete(self, *, label: str | None, edges: str | None, degraded: bool) -> None:
        """The attempt did its work."""
        if label is not None:
            self._extra[semconv.NODE_LABEL] = label
        if edges is not None:
            self._extra[semconv.EDGE_TAKEN] = edges
        if degraded:
            self._extra[semconv.NODE_DEGRADED] = True
        self._end(NodeStatus.COMPLETED)

    def fail(
        self,
        error_type: str,
        message: str,
        *,
        unhandled: BaseException | None,
        edges: str | None = None,
        degraded: bool = False,
    ) -> None:
        """The attempt failed for good. An unhandled exception is recorded here, once."""
        self._tracker.totals.nodes_failed += 1
        if edges is not None:
            self._extra[semconv.EDGE_TAKEN] = edges
        if degraded:
            self._extra[semconv.NODE_DEGRADED] = True
        if unhandled is not None:
            self.span.add_event(
                "exception",
                {"exception.type": type(unhandled).__qualname__, "exception.message": error_text(message)},
            )
        self._error(error_type, message)
        self._end(NodeStatus.FAILED)

    def retrying(self, error_type: str, message: str, delay_seconds: float) -> None:
        """The attempt failed and is repeated."""
        self._tracker.totals.nodes_retried += 1
        self._error(error_type, message)
        self._tracker._say(
            Event.NODE_RETRYING,
            {
                **self._tracker._identity,
                **self.leaf_attributes,
                semconv.ERROR_TYPE: error_type,
                semconv.RETRY_DELAY_MS: round(delay_seconds * 1000),
            },
            self.span,
        )
        self._end(NodeStatus.RETRYING)

    def cancel(self) -> None:
        """The attempt was cut off."""
        self._end(NodeStatus.CANCELLED)

    def pause(self) -> None:
        """The node waits for an answer or a time; the visit goes on with another attempt."""
        self._end(NodeStatus.PAUSED)

    def model_call(self, model: ChatModel, request: ModelRequest) -> "ModelCall":
        """Begin the span of one provider attempt."""
        return ModelCall(self._tracker, self, model, request)

    def tool_call(self, name: str, call_id: str, attempt: int) -> "LeafCall":
        """Begin the span of one attempt of a tool call."""
        self._tracker.totals.tool_calls += 1
        attributes: Attributes = {
            semconv.OPERATION: Operation.TOOL.value,
            semconv.TOOL_NAME: name,
            semconv.TOOL_CALL_ID: call_id,
            semconv.TOOL_TYPE: "function",
        }
        return LeafCall(self._tracker, self, f"{semconv.SPAN_TOOL} {name}", SpanKind.INTERNAL, attributes)

    def retrieval(self, source: str) -> "LeafCall":
        """Begin the span of one question to a retriever."""
        attributes: Attributes = {semconv.OPERATION: Operation.RETRIEVAL.value, semconv.DATA_SOURCE_ID: source}
        return LeafCall(self._tracker, self, f"{semconv.SPAN_RETRIEVAL} {source}", SpanKind.CLIENT, attributes)

    def _error(self, error_type: str, message: str) -> None:
        self._extra[semconv.ERROR_TYPE] = error_type
        self.span.set_status(Status(StatusCode.ERROR, error_text(message)))

    def _end(self, status: NodeStatus) -> None:
        self._extra[semconv.NODE_STATUS] = status.value
        self.span.set_attributes(self._extra)
        self._tracker._ended(self.span, always_kept=False)
        self.span.end()


class LeafCall:
    """The span of one tool call or retrieval."""

    def __init__(
        self, tracker: WorkflowTracker, node: NodeSpan, name: str, kind: SpanKind, attributes: Attributes
    ) -> None:
        self._tracker = tracker
        self._span, _ = tracker._leaf(node, name, kind, Phase.TOOL, attributes)

    def complete(self, attributes: Attributes | None = None) -> None:
        """The call answered."""
        self._end(attributes or {})

    def fail(self, error_type: str, message: str) -> None:
        """The call failed, timed out or was refused."""
        self._span.set_status(Status(StatusCode.ERROR, error_text(message)))
        self._end({semconv.ERROR_TYPE: error_type})

    def cancel(self) -> None:
        """The call was cut off because the execution was cancelled."""
        self._end({})

    def _end(self, attributes: Attributes) -> None:
        self._tracker.time.leave(Phase.TOOL)
        self._span.set_attributes(attributes)
        self._tracker._ended(self._span, always_kept=False)
        self._span.end()


class ModelCall:
    """The span of one provider attempt: usage and cost live here and nowhere else."""

    def __init__(self, tracker: WorkflowTracker, node: NodeSpan, model: ChatModel, request: ModelRequest) -> None:
        self._tracker = tracker
        self._model = model
        self._began = time.perf_counter()
        self._at = datetime.now(UTC)
        self._extra: Attributes = {}
        tracker.totals.model_calls += 1
        self._span, _ = tracker._leaf(
            node,
            f"{semconv.SPAN_CHAT} {redact(model.model)}",
            SpanKind.CLIENT,
            Phase.MODEL,
            _request_attributes(model, request),
        )

    @property
    def id(self) -> str:
        """Hex id of the span; zeros where nothing is recorded."""
        return format_span_id(self._span.get_span_context().span_id)

    def first_chunk(self) -> None:
        """The first piece of a streamed answer arrived."""
        self._extra[semconv.TIME_TO_FIRST_CHUNK] = time.perf_counter() - self._began

    def complete(self, reply: ModelReply) -> Price:
        """The provider answered."""
        if reply.model:
            self._extra[semconv.RESPONSE_MODEL] = reply.model
        if reply.response_id:
            self._extra[semconv.RESPONSE_ID] = reply.response_id
        if reply.finish_reason:
            self._extra[semconv.FINISH_REASONS] = [reply.finish_reason]
        return self._end(reply.usage, self._price(reply.usage), None)

    def fail(self, error_type: str, message: str, usage: Usage | None, waste: Waste) -> Price:
        """The call failed; `usage` is what the provider reported all the same. A refusal cost nothing."""
        self._span.set_status(Status(StatusCode.ERROR, error_text(message)))
        self._extra[semconv.ERROR_TYPE] = error_type
        refused = usage is None and error_type in FREE_REFUSALS
        price = Price(0, CostSource.NONE) if refused else self._price(usage)
        return self._end(usage, price, waste)

    def cancel(self) -> Price:
        """The call was cut off: what it used is unknown."""
        return self._end(None, Price(None, CostSource.NONE), Waste.CANCELLED)

    def withdraw(self) -> Price:
        """The call was not made after all, and cost nothing."""
        return self._end(None, Price(0, CostSource.NONE), Waste.CANCELLED)

    def _price(self, usage: Usage | None) -> Price:
        return self._tracker._prices.price(self._model.provider, self._model.model, usage, self._at)

    def _end(self, usage: Usage | None, price: Price, waste: Waste | None) -> Price:
        totals = self._tracker.totals
        self._tracker.time.leave(Phase.MODEL)
        self._extra[semconv.COST_SOURCE] = price.source.value
        if price.version is not None:
            self._extra[semconv.PRICE_VERSION] = price.version
        if waste is not None:
            self._extra[semconv.CALL_WASTE] = waste.value
        if usage is not None:
            self._extra.update(_usage(usage, _LEAF_USAGE))
            totals.usage = totals.usage + usage
        if price.nano_usd is None:
            totals.unpriced_calls += 1
        else:
            self._extra[semconv.COST_NANO_USD] = price.nano_usd
            self._extra[semconv.GENAI_COST] = price.nano_usd / 1e9
            totals.priced_calls += 1
            totals.priced_nano_usd += price.nano_usd
            totals.waste_nano_usd += price.nano_usd if waste is not None else 0
        self._span.set_attributes(self._extra)
        self._tracker._ended(self._span, always_kept=True)
        self._span.end()
        return price


@dataclass(frozen=True, slots=True)
class Beginning:
    """How an attempt begins."""

    parent: Context | None = None
    """The caller's trace, which the root span joins."""
    links: Sequence[SpanContext] = ()
    """A caller that is not joined, or the root of the attempt before."""
    age_seconds: float | None = None
    """Since acceptance, by the database's clock; null: by this machine's."""
    paused_seconds: float = 0.0
    extra: Attributes = field(default_factory=dict)
    """What `resumed` says beside who it is about."""


def sums(totals: Totals, unfinished: Unfinished, span_ids: list[int], duration_seconds: float) -> Attributes:
    """What the end of an execution says it used, with its seal; the time ledger comes beside it."""
    said: Attributes = {
        semconv.DURATION_MS: round(duration_seconds * 1000),
        semconv.UNPRICED_CALLS: totals.unpriced_calls,
        semconv.WASTE_NANO_USD: totals.waste_nano_usd,
        semconv.MODEL_CALLS: totals.model_calls,
        semconv.TOOL_CALLS: totals.tool_calls,
        semconv.NODES_TOTAL: totals.nodes_total,
        semconv.NODES_FAILED: totals.nodes_failed,
        semconv.NODES_RETRIED: totals.nodes_retried,
        semconv.SPANS: len(span_ids),
        semconv.SPANS_HASH: seal_hash(span_ids),
    }
    if totals.cost_nano_usd is not None:
        said[semconv.COST_NANO_USD] = totals.cost_nano_usd
    if unfinished.calls:
        said[semconv.UNFINISHED_CALLS] = unfinished.calls
        upper = unfinished.upper_cost_nano_usd(totals.cost_nano_usd)
        if upper is not None:
            said[semconv.COST_UPPER_NANO_USD] = upper
    if totals.first_token_seconds is not None:
        said[semconv.TIME_TO_FIRST_TOKEN] = totals.first_token_seconds
    return said | _usage(totals.usage, _ROOT_USAGE)


def event_id(execution_id: str, attempt: int, event: str, seq: int) -> str:
    """The same fact said again has the same id."""
    return str(uuid5(EVENT_NAMESPACE, f"{execution_id}/{attempt}/{event}/{seq}"))


def seal_hash(span_ids: list[int]) -> str:
    """SHA-256 over the sorted span ids, 16 hex digits each, without a separator."""
    return hashlib.sha256("".join(sorted(map(format_span_id, span_ids))).encode()).hexdigest()


_LEAF_KEYS = (semconv.NODE_ID, semconv.NODE_TYPE, semconv.NODE_ATTEMPT)

_ROOT_USAGE = {
    "input_tokens": semconv.USAGE_INPUT,
    "output_tokens": semconv.USAGE_OUTPUT,
    "cache_read_tokens": semconv.USAGE_CACHE_READ,
    "cache_write_tokens": semconv.USAGE_CACHE_WRITE,
    "reasoning_tokens": semconv.USAGE_REASONING,
}
_LEAF_USAGE = {
    "input_tokens": semconv.GENAI_INPUT,
    "output_tokens": semconv.GENAI_OUTPUT,
    "cache_read_tokens": semconv.GENAI_CACHE_READ,
    "cache_write_tokens": semconv.GENAI_CACHE_WRITE,
    "reasoning_tokens": semconv.GENAI_REASONING,
}


def _usage(usage: Usage, keys: dict[str, str]) -> Attributes:
    tokens = usage.model_dump(include=set(keys))
    return {keys[name]: count for name, count in tokens.items() if count is not None}


def _common(identity: ExecutionIdentity) -> Attributes:
    """What every span and event of the execution says."""
    common: Attributes = {
        semconv.WORKFLOW_NAME: identity.workflow_name,
        semconv.WORKFLOW_SOURCE: identity.source,
        semconv.EXECUTION_ID: identity.execution_id,
        semconv.EXECUTION_ATTEMPT: identity.attempt,
        semconv.OWNER_ID: identity.owner,
    }
    if identity.template_id is not None:
        common[semconv.TEMPLATE_ID] = identity.template_id
    if identity.template_version is not None:
        common[semconv.TEMPLATE_VERSION] = identity.template_version
    if identity.record_level != "full":
        common[semconv.RECORD_LEVEL] = identity.record_level
    return common


def identity_attributes(identity: ExecutionIdentity) -> Attributes:
    """What the root span and the events of the execution say from the start."""
    always: Attributes = {
        **_common(identity),
        semconv.OPERATION: Operation.WORKFLOW.value,
        semconv.GENAI_WORKFLOW_NAME: identity.workflow_name,
        semconv.OPENINFERENCE_KIND: "CHAIN",
        semconv.STREAMING: identity.streaming,
        semconv.TRIGGER: identity.trigger,
        semconv.NESTED: False,
        semconv.QUEUED_AT: identity.queued_ns,
        semconv.STARTED_AT: identity.started_ns,
    }
    optional: dict[str, str | None] = {
        semconv.DEFINITION_ID: identity.definition_id,
        semconv.GRAPH_HASH: identity.graph_hash,
        semconv.CORRELATION_ID: identity.correlation_id,
        semconv.CONVERSATION_ID: identity.conversation_id,
        semconv.RETRY_OF: identity.retry_of,
        semconv.TAGS: orjson.dumps(identity.tags).decode() if identity.tags else None,
        semconv.PARAMS: redact(orjson.dumps(identity.params).decode()) if identity.params else None,
    }
    return always | {key: value for key, value in optional.items() if value is not None}


def _request_attributes(model: ChatModel, request: ModelRequest) -> Attributes:
    settings = request.settings
    attributes: Attributes = {
        semconv.OPERATION: Operation.CHAT.value,
        semconv.PROVIDER: model.provider,
        semconv.REQUEST_MODEL: model.model,
        semconv.REQUEST_MAX_TOKENS: settings.max_tokens,
    }
    if settings.temperature is not None:
        attributes[semconv.REQUEST_TEMPERATURE] = settings.temperature
    if settings.top_p is not None:
        attributes[semconv.REQUEST_TOP_P] = settings.top_p
    if model.server_address is not None:
        attributes[semconv.SERVER_ADDRESS] = model.server_address
    return attributes
