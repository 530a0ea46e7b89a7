"""WorkflowTracker: records an execution through the OpenTelemetry API, from `start` to `complete`, `fail` or `cancel`.

Below the root it creates the spans of nodes, model calls, tool calls and retrievals, and sums up their usage and cost.
These are recorded once, on the span of the model call; the root span carries their sums.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

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

from engine.content.policy import ContentPolicy
from engine.graph import Json
from engine.identity import ExecutionIdentity
from engine.ledger import Root
from engine.pause import Paused
from engine.resources import Prices
from engine.result import ErrorClass
from engine.result import Status as ExecutionStatus
from engine.security.redaction import error_text
from engine.tracing import semconv
from engine.tracing.attributes import (
    SHUTDOWN_ERROR,
    Attributes,
    call_attributes,
    common_attributes,
    event_id,
    identity_attributes,
    root_attributes,
    sums,
    user_attributes,
    with_former_names,
)
from engine.tracing.contents import Contents
from engine.tracing.semconv import Event
from engine.tracing.spans import NodeSpan
from engine.tracing.time_ledger import Phase, TimeLedger
from engine.usage import Carried


@dataclass(frozen=True, slots=True)
class Tracing:
    """The tracers of our two instrumentation scopes and the logger of our events."""

    engine: Tracer
    genai: Tracer
    events: Logger

    @classmethod
    def over(cls, tracers: TracerProvider | None, loggers: LoggerProvider | None) -> "Tracing":
        """Use these providers and never the global ones. Without providers nothing is recorded."""
        tracers = tracers or NoOpTracerProvider()
        loggers = loggers or NoOpLoggerProvider()
        return cls(
            engine=tracers.get_tracer(semconv.SCOPE_ENGINE, semconv.SCOPE_VERSION, semconv.SCHEMA_URL),
            genai=tracers.get_tracer(semconv.SCOPE_GENAI, semconv.SCOPE_VERSION, semconv.SCHEMA_URL),
            events=loggers.get_logger(semconv.SCOPE_ENGINE, semconv.SCOPE_VERSION, semconv.SCHEMA_URL),
        )


@dataclass(frozen=True, slots=True)
class AttemptStart:
    """How an attempt begins."""

    parent: Context | None = None
    """The span above the root span: of the caller, or the root span of the first attempt."""
    links: Sequence[SpanContext] = ()
    """Linked spans: those that the identity names, or the root of the previous attempt."""
    age_seconds: float | None = None
    """Seconds since acceptance by the database's clock; null means that this machine's clock is used."""
    paused_seconds: float = 0.0
    extra: Attributes = field(default_factory=dict)
    """Additional attributes of the event `resumed`."""


class WorkflowTracker:
    """Records the spans and events of one attempt of an execution, and sums up its usage."""

    def __init__(
        self,
        tracing: Tracing,
        prices: Prices,
        carried: Carried | None = None,
        content: ContentPolicy | None = None,
        user: str | None = None,
    ) -> None:
        """`carried`: usage and span ids of earlier attempts; totals and seal cover all attempts.

        `user`: the caller's user as given.
        """
        carried = carried or Carried()
        content = content or ContentPolicy()
        self.contents = Contents(content, tracing.events)
        self._tracing = tracing
        self._user = user_attributes(user, content.capture)
        self.prices = prices
        self.totals = carried.totals
        self.unfinished = carried.unfinished
        self.time = TimeLedger()
        self.duration_seconds = 0.0
        """Fixed when the execution ends."""
        self._span_ids = list(carried.span_ids)
        self._event_seq = 0

    def queue(self, identity: ExecutionIdentity, start: AttemptStart | None = None) -> None:
        """Emit `queued`: the execution was accepted and waits for a process.

        Its root span gets its ids here; the process that runs the execution begins and ends it.
        """
        self.identity = identity
        self._root_ns = identity.queued_ns
        self._start_root(start or AttemptStart())
        self.emit_event(Event.QUEUED, identity_attributes(identity))

    def start(self, identity: ExecutionIdentity, start: AttemptStart | None = None) -> None:
        """Start the root span and emit `started`, or `resumed` for a later attempt."""
        start = start or AttemptStart()
        first, was_queued = identity.attempt == 1, identity.started_ns != identity.queued_ns
        self.identity = identity
        self._began, self._began_ns = time.perf_counter(), time.time_ns()
        age = start.age_seconds
        self._accepted = self._began - ((self._began_ns - identity.queued_ns) / 1e9 if age is None else age)
        self._root_ns = min(identity.queued_ns, self._began_ns) if first else self._began_ns
        self._paused_seconds = start.paused_seconds
        self._common = common_attributes(identity)
        self.call_attributes = call_attributes(identity)
        self.identity_attributes = identity_attributes(identity)
        self._start_root(start)
        self._event_seq = 1 if first and was_queued else 0
        self.emit_event(Event.STARTED if first else Event.RESUMED, self.identity_attributes | start.extra)

    def _start_root(self, start: AttemptStart) -> None:
        identity = self.identity
        self._parent = start.parent
        self._root = self._tracing.engine.start_span(
            f"{semconv.SPAN_WORKFLOW} {identity.workflow_name}",
            context=start.parent if start.parent is not None else Context(),
            attributes=with_former_names(self.root_attributes()),
            links=[Link(context) for context in start.links] or None,
            start_time=self._root_ns,
        )
        self._inside = set_span_in_context(self._root, Context())

    def root_attributes(self) -> Attributes:
        """The attributes of the root span, known from the start."""
        return root_attributes(self.identity) | self._user

    def show_input(self, value: Json) -> None:
        """Show what the execution was asked on its outermost spans, if the capture setting allows it."""
        self.contents.show(self._outermost(), semconv.INPUT_VALUE, value)

    def show_output(self, value: Json) -> None:
        """Show what the execution answered, likewise; before its root span ends."""
        self.contents.show(self._outermost(), semconv.OUTPUT_VALUE, value)

    def _outermost(self) -> list[Span]:
        """The root span, and the span of the HTTP request that waits for it: trace stores show a trace by that."""
        above = get_current_span(self._parent) if self._parent is not None else None
        return [self._root, above] if above is not None and above.is_recording() else [self._root]

    def complete(self) -> None:
        """End the root span of a completed execution and emit `completed`."""
        self._root.set_status(StatusCode.OK)
        self._close(ExecutionStatus.COMPLETED, Event.COMPLETED, {})

    def fail(
        self,
        error_type: str,
        message: str,
        node_id: str | None = None,
        error_class: ErrorClass = ErrorClass.ENGINE,
    ) -> None:
        """End the root span of a failed execution as an error and emit `failed`."""
        extra: Attributes = {
            semconv.ERROR_TYPE: error_type,
            semconv.ERROR_CLASS: error_class.value,
            semconv.ERROR_MESSAGE: error_text(message),
        }
        if node_id is not None:
            extra[semconv.ERROR_NODE_ID] = node_id
        self._root.set_status(Status(StatusCode.ERROR, error_text(message)))
        self._close(ExecutionStatus.FAILED, Event.FAILED, extra)

    def cancel(self, reason: str | None) -> None:
        """End the root span of a cancelled execution, which is not an error, and emit `cancelled`."""
        extra: Attributes = {} if reason is None else {semconv.CANCEL_REASON: error_text(reason)}
        self._root.add_event(Event.CANCELLED.value, extra)
        self._close(ExecutionStatus.CANCELLED, Event.CANCELLED, extra)

    def pause(self, paused: Paused) -> None:
        """End the root span of an execution that pauses for an answer or a time, and emit `paused`."""
        extra: Attributes = {semconv.DUE_AT: round(paused.due_at.timestamp() * 1e9)}
        if paused.approvals:
            approval = paused.approvals[0]
            extra |= {semconv.APPROVAL_ID: approval.approval_id, semconv.NODE_ID: approval.node_id}
        self._root.add_event(Event.PAUSED.value, extra)
        self._close(ExecutionStatus.PAUSED, Event.PAUSED, extra)

    def hand_over(self, reason: str) -> None:
        """End the root span of this attempt as an error, because another process continues the execution."""
        self.count_span(self._root, always_kept=True)
        self._root.set_status(Status(StatusCode.ERROR, reason))
        self._root.set_attribute(semconv.ERROR_TYPE, SHUTDOWN_ERROR)
        self._end_root()

    @property
    def root(self) -> Root | None:
        """The root span of this attempt; null if nothing is recorded."""
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
        """The trace id in hex; null if nothing is recorded."""
        context = self._root.get_span_context()
        return format_trace_id(context.trace_id) if context.is_valid else None

    @property
    def started_at(self) -> datetime:
        """When the root span started, UTC."""
        return datetime.fromtimestamp(self._root_ns / 1e9, UTC)

    def elapsed_seconds(self) -> float:
        """Seconds since the execution was accepted, by the monotonic clock."""
        return max(0.0, time.perf_counter() - self._accepted)

    def start_node(self, name: str, static: Attributes, visit: int, attempt: int) -> NodeSpan:
        """Start the span of one attempt of a node visit; `static` holds the attributes from the plan."""
        if attempt == 1:
            self.totals.nodes_total += 1
        attributes = {**self._common, **static, semconv.NODE_VISIT: visit, semconv.NODE_ATTEMPT: attempt}
        span = self._tracing.engine.start_span(name, context=self._inside, attributes=attributes)
        return NodeSpan(self, span, attributes)

    def first_token(self) -> None:
        """Note the time of the first token that is streamed to the caller."""
        if self.totals.first_token_seconds is None:
            self.totals.first_token_seconds = self.elapsed_seconds()

    def budget(self, event: Event, *, limit: int, spent: int, unit: str) -> None:
        """Emit the event that a budget is nearly or fully used up."""
        self.emit_event(
            event,
            {
                **self.identity_attributes,
                semconv.BUDGET_LIMIT: limit,
                semconv.BUDGET_SPENT: spent,
                semconv.BUDGET_UNIT: unit,
            },
        )

    def start_leaf(self, node: NodeSpan, name: str, kind: SpanKind, phase: Phase, attributes: Attributes) -> Span:
        """Start the span of a call below a node, and count its time in the time ledger."""
        everything = {**self._common, **node.leaf_attributes, **attributes}
        context = set_span_in_context(node.span, Context())
        span = self._tracing.genai.start_span(name, context=context, kind=kind, attributes=everything)
        self.time.enter(phase)
        return span

    def count_span(self, span: Span, *, always_kept: bool) -> None:
        """Add a span to the seal, if the record level stores it."""
        if always_kept or self.identity.record_level != "summary":
            self._span_ids.append(span.get_span_context().span_id)

    def emit_event(self, event: Event, attributes: Attributes, span: Span | None = None) -> None:
        """Emit an event in the context of `span`; null means the root span."""
        self._event_seq += 1
        identity = self.identity
        said: Attributes = {
            **attributes,
            semconv.EVENT_ID: event_id(identity.execution_id, identity.attempt, event, self._event_seq),
            semconv.EVENT_SEQ: self._event_seq,
        }
        self._emit(event.value, said, SeverityNumber.INFO, span)

    def emit_exception(self, span: Span, attributes: Attributes) -> None:
        """Emit the event of a model call that failed, in the context of its span; under its former name, too."""
        for name in (semconv.EXCEPTION_EVENT, semconv.FORMER_EXCEPTION_EVENT):
            self._emit(name, self._common | attributes, SeverityNumber.WARN, span)

    def _emit(self, name: str, attributes: Attributes, severity: SeverityNumber, span: Span | None) -> None:
        self._tracing.events.emit(
            LogRecord(
                timestamp=time.time_ns(),
                context=self._inside if span is None else set_span_in_context(span, Context()),
                severity_number=severity,
                event_name=name,
                attributes=attributes,
            )
        )

    def _close(self, status: ExecutionStatus, event: Event, extra: Attributes) -> None:
        self.count_span(self._root, always_kept=True)
        duration = self.duration_seconds = self.elapsed_seconds()
        attributes = {semconv.EXECUTION_STATUS: status.value, **extra, **self._sums(duration)}
        self._root.set_attributes(attributes)
        self.emit_event(event, {**self.identity_attributes, **attributes})
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
