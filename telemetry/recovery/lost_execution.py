"""Writes for an execution without a process: the open spans of its lost attempt, the closing event, the result.

Everything comes from the database: its identity, the ids and the start of its root span, and the totals made durable
so far. Durations follow the database's clock, because a worker's clock may be off by an hour.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Self

from opentelemetry.trace import format_span_id, format_trace_id

from engine.content.policy import Capture
from engine.events import LAST_SEQ
from engine.identity import ExecutionIdentity
from engine.ledger import Finish, Root
from engine.result import ErrorClass, ExecutionResult, Status, result_of
from engine.store.control import ControlRow
from engine.store.unfinished import OpenNode, Part
from engine.tracing import semconv
from engine.tracing.attributes import (
    LOST_ERROR,
    Attributes,
    common_attributes,
    event_id,
    identity_attributes,
    root_attributes,
    sums,
    user_attributes,
)
from engine.tracing.remote_spans import read_traceparent
from engine.tracing.semconv import Event, NodeStatus
from engine.usage import Carried
from telemetry.records.totals import is_recorded, totals_of
from telemetry.signals.builders import make_event, make_span
from telemetry.signals.records import EventRecord, SpanEvent, SpanLink, SpanRecord, TraceOnly, Value
from telemetry.signals.sanitize import place_all, sanitize

PROCESS_GONE = "the process that ran the execution died or stopped renewing its lease"

_LOST_PART = 0
"""Parts of the attempt itself are numbered from 1."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How an unowned execution ends."""

    status: Status
    error_message: str | None = None
    cancel_reason: str | None = None

    @property
    def error_class(self) -> ErrorClass | None:
        """Losing the process is a fault of the engine's side."""
        return ErrorClass.ENGINE if self.status is Status.FAILED else None

    @property
    def error_type(self) -> str | None:
        """`engine_lost` if it failed: nothing else makes an unowned execution fail."""
        return LOST_ERROR if self.status is Status.FAILED else None


@dataclass(frozen=True, slots=True)
class UnownedExecution:
    """An execution without a process: its state in the database and how it ends."""

    row: ControlRow
    carried: Carried
    now: datetime
    """By the database's clock."""
    is_lost: bool
    """Whether its process died during an attempt."""
    end: Ending | None
    """Null if another process is to continue it."""
    capture: Capture = Capture.NO_CONTENT
    """What its root span holds of content on its way to trace stores."""
    nodes: Sequence[SpanRecord] = ()
    """The spans of nodes that were open in the lost attempt, as far as spans below them are durable."""

    def with_nodes(self, open_nodes: Sequence[OpenNode]) -> Self:
        """The same with spans for the open nodes of its lost attempt; totals and seal include them."""
        root, carried = self.root, self.carried
        if root is None:
            return self
        nodes = [_node_span(self, root, node) for node in open_nodes if int(node.span_id, 16) not in carried.span_ids]
        ids = [int(span.span_id, 16) for span in nodes if is_recorded(span)]
        known = replace(carried, totals=carried.totals + totals_of(nodes), span_ids=[*carried.span_ids, *ids])
        return replace(self, carried=known, nodes=nodes)

    def end_ns(self, start_ns: int) -> int:
        """The end of a span of the lost attempt: now, as in `ended_ns` for the first attempt."""
        now_ns = self.ended_ns if self.row.attempt == 1 else _ns(self.now)
        return max(start_ns, now_ns)

    @property
    def root(self) -> Root | None:
        """The root span that is still missing: of a lost attempt, or of one that never left the queue."""
        root = self.row.root
        return None if root is None or int(root.span_id, 16) in self.carried.span_ids else root

    @property
    def duration_seconds(self) -> float:
        """Seconds since it was accepted."""
        return max(0.0, (self.now - self.row.accepted_at).total_seconds())

    @property
    def ended_ns(self) -> int:
        """Now, by the clock of the process that accepted it, so that no part of it comes after its end."""
        return self.row.identity.queued_ns + int(self.duration_seconds * 1e9)


def lost_spans(execution: UnownedExecution) -> list[SpanRecord]:
    """The spans that no process has ended, without which the tree would fall apart."""
    root = execution.root
    return [] if root is None else [_root_span(execution, root), *execution.nodes]


def _root_span(execution: UnownedExecution, root: Root) -> SpanRecord:
    """The root span; it has a status only if the execution ends with this attempt, and no error if it was queued."""
    identity, end = _begun(execution), execution.end
    start_ns, is_lost = _ns(root.started_at), execution.is_lost
    end_ns = execution.end_ns(start_ns)
    error: Attributes = {semconv.ERROR_TYPE: LOST_ERROR} if is_lost else {}
    ended = {} if end is None else _outcome(end) | _sums(execution)
    return make_span(
        trace_id=root.trace_id,
        span_id=root.span_id,
        parent_span_id=root.parent_span_id,
        name=f"{semconv.SPAN_WORKFLOW} {identity.workflow_name}",
        start_ns=start_ns,
        end_ns=end_ns,
        placed=place_all({**root_attributes(identity), **ended, **error}),
        failed=is_lost,
        description=((end and end.error_message) or PROCESS_GONE) if is_lost else None,
        trace_only=TraceOnly(_links(identity), _marks(end, end_ns), _user(execution)),
    )


def _user(execution: UnownedExecution) -> dict[str, Value]:
    said = user_attributes(execution.row.user, execution.capture)
    return {key: sanitize(value)[0] for key, value in said.items()}


def _links(identity: ExecutionIdentity) -> list[SpanLink]:
    """The links of a first root span; the one of a later root to the attempt before is not known here."""
    linked = [read_traceparent(link) for link in identity.links] if identity.attempt == 1 else []
    return [SpanLink(format_trace_id(span.trace_id), format_span_id(span.span_id), {}) for span in linked]


def _marks(end: Ending | None, at_ns: int) -> list[SpanEvent]:
    """The event that shows a cancellation in the tree, as the tracker writes it."""
    if end is None or end.status is not Status.CANCELLED:
        return []
    reason: Attributes = {} if end.cancel_reason is None else {semconv.CANCEL_REASON: end.cancel_reason}
    return [SpanEvent(Event.CANCELLED.value, at_ns, {key: sanitize(value)[0] for key, value in reason.items()})]


def _node_span(execution: UnownedExecution, root: Root, node: OpenNode) -> SpanRecord:
    """The span of a node that was open; named as the walker names it."""
    identity = execution.row.identity
    known: Attributes = {
        semconv.NODE_ID: node.node_id,
        semconv.NODE_TYPE: node.node_type,
        semconv.NODE_PATH: node.node_id,
        semconv.NODE_ATTEMPT: node.node_attempt,
        semconv.NODE_STATUS: NodeStatus.FAILED.value,
        semconv.ERROR_TYPE: LOST_ERROR,
    }
    return make_span(
        trace_id=root.trace_id,
        span_id=node.span_id,
        parent_span_id=root.span_id,
        name=f"{semconv.SPAN_NODE} {node.node_id}",
        start_ns=node.start_ns,
        end_ns=execution.end_ns(node.start_ns),
        placed=place_all({**common_attributes(identity), **known}),
        failed=True,
        description=PROCESS_GONE,
    )


def lost_part(execution: UnownedExecution, spans: Sequence[SpanRecord]) -> Part:
    """These spans as a durable part of the execution, so that totals and seal of a later attempt include them."""
    stored = [span.span_id for span in spans if is_recorded(span)]
    return Part(execution.row.execution_id, execution.row.attempt, _LOST_PART, stored, totals_of(spans))


def closing_event(execution: UnownedExecution, end: Ending) -> EventRecord:
    """The closing event, with everything that the record needs."""
    row, root, identity = execution.row, execution.row.root, _begun(execution)
    event = Event.FAILED if end.status is Status.FAILED else Event.CANCELLED
    return make_event(
        name=event.value,
        at_ns=execution.ended_ns,
        trace_id=row.trace_id,
        span_id=root.span_id if root else None,
        placed=place_all(
            {
                **identity_attributes(identity),
                **_outcome(end),
                **_sums(execution),
                semconv.EVENT_ID: event_id(identity.execution_id, identity.attempt, event, LAST_SEQ),
                semconv.EVENT_SEQ: LAST_SEQ,
            }
        ),
    )


def finish(execution: UnownedExecution, end: Ending) -> Finish:
    """The decision that ends the execution. It adds nothing to the conversation."""
    result = _result(execution, end).model_dump(mode="json")
    return Finish(execution.row.execution_id, execution.row.attempt, end.status, result, last_seq=LAST_SEQ)


def _begun(execution: UnownedExecution) -> ExecutionIdentity:
    """The identity; the start of an execution that never left the queue is its end."""
    identity = execution.row.identity
    return replace(identity, started_ns=execution.ended_ns) if execution.row.status is Status.QUEUED else identity


def _outcome(end: Ending) -> Attributes:
    said: dict[str, str | None] = {
        semconv.EXECUTION_STATUS: end.status.value,
        semconv.ERROR_TYPE: end.error_type,
        semconv.ERROR_CLASS: end.error_class,
        semconv.ERROR_MESSAGE: end.error_message,
        semconv.CANCEL_REASON: end.cancel_reason,
    }
    return {key: value for key, value in said.items() if value is not None}


def _sums(execution: UnownedExecution) -> Attributes:
    carried, root = execution.carried, execution.root
    span_ids = [*carried.span_ids, *([int(root.span_id, 16)] if root else [])]
    return sums(carried.totals, carried.unfinished, span_ids, execution.duration_seconds) | _times(execution)


def _times(execution: UnownedExecution) -> Attributes:
    """The time ledger: time in the queue, in ended spans and in pauses; the engine gets the rest."""
    identity, totals = _begun(execution), execution.carried.totals
    waited = execution.now - execution.row.paused_at if execution.row.paused_at is not None else None
    known: dict[str, float] = {
        semconv.TIME_QUEUE: max(0.0, (identity.started_ns - identity.queued_ns) / 1e9),
        semconv.TIME_MODEL: totals.model_seconds,
        semconv.TIME_TOOL: totals.tool_seconds,
        semconv.TIME_RETRY: 0.0,
        semconv.TIME_HUMAN: execution.row.paused_seconds + (max(0.0, waited.total_seconds()) if waited else 0.0),
    }
    return {**known, semconv.TIME_ENGINE: max(0.0, execution.duration_seconds - sum(known.values()))}


def _result(execution: UnownedExecution, end: Ending) -> ExecutionResult:
    return result_of(
        execution.row.identity,
        execution.carried.totals,
        execution.carried.unfinished,
        status=end.status,
        duration_seconds=execution.duration_seconds,
        trace_id=execution.row.trace_id,
        cancel_reason=end.cancel_reason,
        error_type=end.error_type,
        error_message=end.error_message,
        error_class=end.error_class,
    )


def _ns(at: datetime) -> int:
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1_000
