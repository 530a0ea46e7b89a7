"""The records of spans and events: one shape, whether they come from the SDK or over OTLP.

`telemetry/signals/builders.py` makes them, and everything in them was sanitised. They hold no prompts and answers,
except in `TraceOnly`, which no table stores.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Self

from engine.tracing import semconv

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Value = str | int | float | bool | list[str | int | float | bool]
Attributes = dict[str, Value]


def time_of(ns: int) -> datetime:
    """A time in ns since the epoch, to the microsecond."""
    return EPOCH + timedelta(microseconds=ns // 1000)


class BadSignal(ValueError):
    """The signal is malformed; the message says what is wrong, without the value."""


class Kind(StrEnum):
    """The kind of work that a span stands for."""

    WORKFLOW = "workflow"
    NODE = "node"
    MODEL = "model"
    TOOL = "tool"
    RETRIEVAL = "retrieval"

    @property
    def is_client(self) -> bool:
        """Whether the span is of OTLP kind CLIENT, a request to another system; the others are INTERNAL."""
        return self in _CLIENT_KINDS


_CLIENT_KINDS = frozenset({Kind.MODEL, Kind.RETRIEVAL})


@dataclass(frozen=True, slots=True)
class Identity:
    """The execution that a signal belongs to, and its workflow."""

    execution_id: str
    attempt: int
    owner: str
    workflow_name: str
    workflow_source: str
    template_id: str | None
    template_version: int | None
    record_level: str

    @property
    def is_ad_hoc(self) -> bool:
        """Whether the workflow came with the request: nothing bounds how many names such workflows have."""
        return self.template_id is None and self.workflow_source in AD_HOC_SOURCES


AD_HOC_SOURCES = ("graph", "template")
"""Sources of workflows without an id: an own graph, and a template that is not saved."""


@dataclass(frozen=True, slots=True)
class SpanLink:
    """A link to a span of another trace; ids in hex."""

    trace_id: str
    span_id: str
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """An event within a span, such as an exception; ns since the epoch."""

    name: str
    at_ns: int
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class TraceOnly:
    """The part of a span that goes to the trace store only; no table holds it."""

    links: list[SpanLink]
    events: list[SpanEvent]
    content: Attributes
    """Prompts and answers, if the capture setting allows them."""


@dataclass(frozen=True, slots=True)
class SpanRecord:
    """One ended span; times in ns since the epoch. `attributes` holds what `fields` does not."""

    identity: Identity
    trace_id: str
    span_id: str
    parent_span_id: str | None
    kind: Kind
    name: str
    status: str
    start_ns: int
    end_ns: int
    fields: Attributes
    """Attributes that have a column of their own, by key."""
    attributes: Attributes
    trace_only: TraceOnly | None = field(default=None, compare=False, repr=False)

    @property
    def seconds(self) -> float:
        """The span's duration."""
        return (self.end_ns - self.start_ns) / 1e9

    @property
    def is_error(self) -> bool:
        """Whether the span's status in a trace is an error."""
        return self.status in ("failed", "retrying")

    @property
    def is_ok(self) -> bool:
        """Whether the span's status in a trace is OK; a span that is cancelled, paused or skipped has none."""
        return self.status == "completed"

    def text(self, key: str) -> str | None:
        """The text of a field, or null. Raises `BadSignal` for another type."""
        return text_of(self.fields, key)

    def integer(self, key: str) -> int | None:
        """The whole number of a field, or null. Raises `BadSignal` for another type."""
        return integer_of(self.fields, key)


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One event of an execution; `at_ns` since the epoch, order is (attempt, seq)."""

    identity: Identity
    id: str
    name: str
    seq: int
    at_ns: int
    trace_id: str | None
    """Null where nothing is recorded, and of executions that were queued before the ids were fixed at acceptance."""
    span_id: str | None
    attributes: Attributes

    def text(self, key: str) -> str | None:
        """The text of an attribute, or null. Raises `BadSignal` for another type."""
        return text_of(self.attributes, key)

    def integer(self, key: str) -> int | None:
        """The whole number of an attribute, or null. Raises `BadSignal` for another type."""
        return integer_of(self.attributes, key)

    def number(self, key: str) -> float | None:
        """The number of an attribute, or null. Raises `BadSignal` for another type."""
        value = self.attributes.get(key)
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            return value
        raise BadSignal(f"{key} is not a number")


Signal = SpanRecord | EventRecord


@dataclass(frozen=True, slots=True)
class Batch:
    """Signals of one or many executions, in no particular order."""

    spans: list[SpanRecord]
    events: list[EventRecord]

    @classmethod
    def of(cls, signals: Iterable[Signal]) -> Self:
        """Sort signals into spans and events."""
        batch = cls([], [])
        for signal in signals:
            if isinstance(signal, SpanRecord):
                batch.spans.append(signal)
            else:
                batch.events.append(signal)
        return batch

    def signals(self) -> list[Signal]:
        """All of them, events first."""
        return [*self.events, *self.spans]


Attempt = tuple[str, int]
"""The id of an execution and the number of an attempt."""


def is_ours(scope: str | None) -> bool:
    """Whether the scope is one of ours; only their spans and events are recorded."""
    return scope is not None and scope.startswith(semconv.SCOPE_PREFIX)


def is_journalled(event_name: str | None) -> bool:
    """Whether the books hold events of this name; all others are for trace stores alone."""
    return event_name is not None and event_name.startswith(semconv.EVENT_PREFIX)


def text_of(attributes: Attributes, key: str) -> str | None:
    """The text under a key, or null. Raises `BadSignal` for another type."""
    value = attributes.get(key)
    if value is None or isinstance(value, str):
        return value
    raise BadSignal(f"{key} is not a text")


def integer_of(attributes: Attributes, key: str) -> int | None:
    """The whole number under a key, or null. Raises `BadSignal` for another type."""
    value = attributes.get(key)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise BadSignal(f"{key} is not a whole number")
