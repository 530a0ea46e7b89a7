"""Spans and events as the bookkeeper reads them: one shape, wherever they come from.

They are made by `telemetry/signals/builders.py`, and everything in them was sanitised. Content never gets this far.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from engine.tracing import semconv

Value = str | int | float | bool | list[str | int | float | bool]
Attributes = dict[str, Value]


class BadSignal(ValueError):
    """The signal does not have the form its name promises; the message says what is wrong, without the value."""


class Kind(StrEnum):
    """What a span is about."""

    WORKFLOW = "workflow"
    NODE = "node"
    MODEL = "model"
    TOOL = "tool"
    RETRIEVAL = "retrieval"


@dataclass(frozen=True, slots=True)
class Identity:
    """Which execution a signal belongs to, and which workflow that ran."""

    execution_id: str
    attempt: int
    owner: str
    workflow_name: str
    workflow_source: str
    template_id: str | None
    template_version: int | None
    record_level: str


@dataclass(frozen=True, slots=True)
class SpanLink:
    """A link to a span of another trace; ids in hex."""

    trace_id: str
    span_id: str
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """Something that happened within a span, such as an exception; ns since the epoch."""

    name: str
    at_ns: int
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class TraceOnly:
    """What a span says to the trace store alone; no table holds it."""

    links: list[SpanLink]
    events: list[SpanEvent]
    content: Attributes
    """Prompts and answers, where the capture setting allowed them on the span."""


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
    """Attributes that have a column of their own, by their key."""
    attributes: Attributes
    trace_only: TraceOnly | None = field(default=None, compare=False, repr=False)

    def text(self, key: str) -> str | None:
        """A field that holds text, or null."""
        return text_of(self.fields, key)

    def integer(self, key: str) -> int | None:
        """A field that holds a whole number, or null."""
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
    """Null before the execution has a trace: it is queued, or nothing is recorded."""
    span_id: str | None
    attributes: Attributes

    def text(self, key: str) -> str | None:
        """An attribute that holds text, or null."""
        return text_of(self.attributes, key)

    def integer(self, key: str) -> int | None:
        """An attribute that holds a whole number, or null."""
        return integer_of(self.attributes, key)

    def number(self, key: str) -> float | None:
        """An attribute that holds a number, or null."""
        value = self.attributes.get(key)
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            return value
        raise BadSignal(f"{key} is no number")


Signal = SpanRecord | EventRecord


@dataclass(frozen=True, slots=True)
class Batch:
    """Signals of one or many executions, in no particular order."""

    spans: list[SpanRecord]
    events: list[EventRecord]

    @classmethod
    def of(cls, signals: Iterable[Signal]) -> Self:
        """The signals, by what they are."""
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
"""An execution's id, and the number of the attempt."""


def is_ours(scope: str | None) -> bool:
    """Only spans and events of our own scopes are counted."""
    return scope is not None and scope.startswith(semconv.SCOPE_PREFIX)


def text_of(attributes: Attributes, key: str) -> str | None:
    value = attributes.get(key)
    if value is None or isinstance(value, str):
        return value
    raise BadSignal(f"{key} is no text")


def integer_of(attributes: Attributes, key: str) -> int | None:
    value = attributes.get(key)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise BadSignal(f"{key} is no whole number")
