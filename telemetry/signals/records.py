"""Spans and events as the bookkeeper reads them: one shape, wherever they come from.

Everything stored passes `sanitize`: bounded, repaired, redacted. Content never gets this far.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from functools import lru_cache
from itertools import islice
from types import MappingProxyType
from typing import Self, cast

from opentelemetry.sdk._logs import ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode
from opentelemetry.util.types import AnyValue

from engine.security.redaction import redact
from engine.tracing import semconv
from engine.tracing.semconv import Operation

MAX_VALUE_BYTES = 8 * 1024
MAX_DOCUMENT_BYTES = 64 * 1024
"""For attributes that hold JSON: tags and parameters."""

MAX_INTEGER = (1 << 63) - 1
MAX_COUNT = (1 << 53) - 1
"""For fields: they are summed up, and a sum that has no room would spoil what is added to it later."""

MAX_ATTRIBUTES = 256
LEFT_OUT = "*"
"""In `workflow.sanitized`: some attributes were left out."""

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


_KINDS: dict[Value | None, Kind] = {
    Operation.WORKFLOW.value: Kind.WORKFLOW,
    Operation.CHAT.value: Kind.MODEL,
    Operation.TOOL.value: Kind.TOOL,
    Operation.RETRIEVAL.value: Kind.RETRIEVAL,
}


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
        return _text(self.fields, key)

    def integer(self, key: str) -> int | None:
        """A field that holds a whole number, or null."""
        return _integer(self.fields, key)


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One event of an execution; `at_ns` since the epoch, order is (attempt, seq)."""

    identity: Identity
    id: str
    name: str
    seq: int
    at_ns: int
    trace_id: str
    span_id: str
    attributes: Attributes

    def text(self, key: str) -> str | None:
        """An attribute that holds text, or null."""
        return _text(self.attributes, key)

    def integer(self, key: str) -> int | None:
        """An attribute that holds a whole number, or null."""
        return _integer(self.attributes, key)

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


_TEXT_FIELDS = (
    semconv.EXECUTION_ID,
    semconv.OWNER_ID,
    semconv.WORKFLOW_NAME,
    semconv.WORKFLOW_SOURCE,
    semconv.TEMPLATE_ID,
    semconv.RECORD_LEVEL,
    semconv.NODE_ID,
    semconv.NODE_TYPE,
    semconv.NODE_PATH,
    semconv.NODE_STATUS,
    semconv.PROVIDER,
    semconv.REQUEST_MODEL,
    semconv.COST_SOURCE,
    semconv.PRICE_VERSION,
    semconv.CALL_WASTE,
    semconv.ERROR_TYPE,
)
_INTEGER_FIELDS = (
    semconv.EXECUTION_ATTEMPT,
    semconv.TEMPLATE_VERSION,
    semconv.NODE_ATTEMPT,
    semconv.GENAI_INPUT,
    semconv.GENAI_OUTPUT,
    semconv.GENAI_CACHE_READ,
    semconv.GENAI_CACHE_WRITE,
    semconv.GENAI_REASONING,
    semconv.COST_NANO_USD,
)


class _Place(Enum):
    """Where an attribute goes; the first two are fields, and their type is checked."""

    TEXT = 0
    INTEGER = 1
    REST = 2
    NOWHERE = 3


Placed = tuple[_Place, str, Value, bool]
"""An attribute where it belongs: place, key, sanitised value, and whether the value had to be changed."""

_PLACES = (
    dict.fromkeys(semconv.ATTRIBUTES, _Place.REST)
    | dict.fromkeys(_TEXT_FIELDS, _Place.TEXT)
    | dict.fromkeys(_INTEGER_FIELDS, _Place.INTEGER)
    | dict.fromkeys(semconv.CONTENT_KEYS, _Place.NOWHERE)
)
_DOCUMENT_KEYS = frozenset({semconv.TAGS, semconv.PARAMS})


def is_ours(scope: str | None) -> bool:
    """Only spans and events of our own scopes are counted."""
    return scope is not None and scope.startswith(semconv.SCOPE_PREFIX)


Attempt = tuple[str, int]
"""An execution's id, and the number of the attempt."""


def attempt_of(attributes: Mapping[str, AnyValue] | None) -> Attempt | None:
    """The attempt that a span or event names; null if it names none."""
    if attributes is None:
        return None
    execution_id, attempt = attributes.get(semconv.EXECUTION_ID), attributes.get(semconv.EXECUTION_ATTEMPT)
    return (execution_id, attempt) if isinstance(execution_id, str) and isinstance(attempt, int) else None


def span_record(span: ReadableSpan) -> SpanRecord:
    """Read an ended SDK span. Raises `BadSignal`."""
    context = span.context
    start, end = span.start_time, span.end_time
    if context is None or start is None or end is None:
        raise BadSignal("the span has not ended")
    parent = span.parent
    attributes = _plain(span.attributes)
    return make_span(
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        parent_span_id=f"{parent.span_id:016x}" if parent is not None else None,
        name=span.name,
        start_ns=start,
        end_ns=end,
        placed=place_all(attributes),
        failed=span.status.status_code is StatusCode.ERROR,
        description=span.status.description,
        trace_only=_trace_only(span, attributes),
    )


def make_span(
    *,
    trace_id: str,
    span_id: str,
    parent_span_id: str | None,
    name: str,
    start_ns: int,
    end_ns: int,
    placed: Sequence[Placed],
    failed: bool,
    description: str | None,
    trace_only: TraceOnly | None = None,
) -> SpanRecord:
    """The record of a span, whichever way it came; `failed` and `description` are its status. Raises `BadSignal`."""
    fields, rest = _split(placed)
    if description:
        rest[semconv.ERROR_MESSAGE] = _clean_text(description)[0]
    kind = _kind(fields, rest)
    return SpanRecord(
        identity=_identity(fields),
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=parent_span_id,
        kind=kind,
        name=_clean_text(name)[0],
        status=_status(kind, fields, rest, failed=failed),
        start_ns=start_ns,
        end_ns=max(start_ns, end_ns),
        fields=fields,
        attributes=rest,
        trace_only=trace_only,
    )


def event_record(event: ReadWriteLogRecord | ReadableLogRecord) -> EventRecord:
    """Read an SDK log record that has an event name. Raises `BadSignal`."""
    record = event.log_record
    if record.event_name is None or record.timestamp is None:
        raise BadSignal("the event has no name or no time")
    attributes = _plain(record.attributes)
    return make_event(
        name=record.event_name,
        at_ns=record.timestamp,
        trace_id=f"{record.trace_id or 0:032x}",
        span_id=f"{record.span_id or 0:016x}",
        placed=place_all(attributes),
    )


def make_event(*, name: str, at_ns: int, trace_id: str, span_id: str, placed: Sequence[Placed]) -> EventRecord:
    """The record of an event, whichever way it came. Raises `BadSignal`."""
    fields, rest = _split(placed)
    rest = fields | rest
    seq = _integer(rest, semconv.EVENT_SEQ)
    event_id = _text(rest, semconv.EVENT_ID)
    if seq is None or event_id is None:
        raise BadSignal(f"{semconv.EVENT_ID} or {semconv.EVENT_SEQ} is missing")
    return EventRecord(
        identity=_identity(rest),
        id=event_id,
        name=_clean_text(name)[0],
        seq=seq,
        at_ns=at_ns,
        trace_id=trace_id,
        span_id=span_id,
        attributes=rest,
    )


def _trace_only(span: ReadableSpan, attributes: Mapping[str, AnyValue]) -> TraceOnly | None:
    content = {
        key: sanitize(attributes[key], MAX_DOCUMENT_BYTES)[0] for key in semconv.CONTENT_KEYS & attributes.keys()
    }
    if not (content or span.links or span.events):
        return None
    return TraceOnly(
        [
            SpanLink(f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}", _clean_all(link.attributes))
            for link in span.links
        ],
        [SpanEvent(_clean_text(event.name)[0], event.timestamp, _clean_all(event.attributes)) for event in span.events],
        content,
    )


def _clean_all(attributes: Mapping[str, AnyValue] | None) -> Attributes:
    return {_clean_text(key)[0]: sanitize(value)[0] for key, value in _plain(attributes).items() if value is not None}


def sanitize(value: AnyValue, limit: int = MAX_VALUE_BYTES) -> tuple[Value, bool]:
    """The value as it may be stored, and whether it had to be changed.

    Text is cut at `limit` bytes of UTF-8, NUL and lone surrogates become U+FFFD, secrets are redacted; integers are
    kept within 64 bits; numbers that JSON cannot hold become text, and so does everything that is no flat value.
    """
    if isinstance(value, bool):
        return value, False
    if isinstance(value, str):
        return _clean_text(value) if len(value) <= _SHORT else _cut_text(value, limit)
    if isinstance(value, int):
        if -MAX_INTEGER <= value <= MAX_INTEGER:
            return value, False
        bounded = max(-MAX_INTEGER - 1, min(MAX_INTEGER, value))
        return bounded, bounded != value
    if isinstance(value, float):
        return (value, False) if math.isfinite(value) else (str(value), True)
    if isinstance(value, list | tuple):
        return _clean_list(value, limit)
    return _cut_text(str(value), limit)[0], True


_SHORT = 128


_CLEAN: set[str] = set()
"""Short texts that were found clean: names and ids come again with every span."""

_MOST_CLEAN = 8_192


def _clean_text(text: str) -> tuple[str, bool]:
    if text in _CLEAN:
        return text, False
    clean, changed = _cut_text(text, MAX_VALUE_BYTES)
    if not changed and len(text) <= _SHORT:
        if len(_CLEAN) >= _MOST_CLEAN:
            _CLEAN.clear()
        _CLEAN.add(text)
    return clean, changed


def _cut_text(text: str, limit: int) -> tuple[str, bool]:
    clean = text[: 2 * limit]
    if not clean.isascii():
        clean = clean.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if "\0" in clean:
        clean = clean.replace("\0", "\ufffd")
    clean = redact(clean)
    if len(clean) * 4 > limit:
        data = clean.encode()
        if len(data) > limit:
            clean = data[: limit - 3].decode("utf-8", "ignore") + "…"
    return clean, clean != text


def _clean_list(values: list[AnyValue] | tuple[AnyValue, ...], limit: int) -> tuple[Value, bool]:
    clean: list[str | int | float | bool] = []
    changed = False
    left = limit
    for value in values:
        item, repaired = sanitize(value, limit)
        if isinstance(item, list):
            item, repaired = str(item), True
        left -= len(item) if isinstance(item, str) else 8
        if left < 0:
            return clean, True
        clean.append(item)
        changed = changed or repaired
    return clean, changed


def _plain(attributes: Mapping[str, AnyValue] | None) -> Mapping[str, AnyValue]:
    """The attributes as a dict: walking the SDK's own container takes a lock per key."""
    if attributes is None:
        return {}
    return attributes.copy() if isinstance(attributes, MappingProxyType) else dict(attributes)


def place(key: str, value: AnyValue) -> Placed:
    """An attribute sanitised, with its place. Raises `BadSignal` if a field is of another type."""
    where = _PLACES.get(key)
    if where is None:
        key, where = _clean_text(key)[0], _REST
    if where is _NOWHERE or value is None:
        return _LEFT_OUT
    if value.__class__ is str and value in _CLEAN:
        clean: Value = value
        changed = False
    else:
        clean, changed = sanitize(value, MAX_DOCUMENT_BYTES if key in _DOCUMENT_KEYS else MAX_VALUE_BYTES)
    if where is not _REST and clean.__class__ is not (str if where is _TEXT else int):
        raise BadSignal(f"{key} is no {'text' if where is _TEXT else 'whole number'}")
    if where is _INTEGER and not 0 <= cast(int, clean) <= MAX_COUNT:
        raise BadSignal(f"{key} is no count")
    return where, key, clean, changed


def place_all(attributes: Mapping[str, AnyValue]) -> list[Placed]:
    """Every attribute sanitised, with its place. Raises `BadSignal`."""
    return list(map(place, attributes.keys(), attributes.values()))


def _split(placed: Sequence[Placed]) -> tuple[Attributes, Attributes]:
    """Fields and the rest. Runs for every attribute of every span."""
    fields: Attributes = {}
    rest: Attributes = {}
    repaired: list[str | int | float | bool] = []
    if len(placed) > MAX_ATTRIBUTES:
        placed = _fewer(placed)
        repaired.append(LEFT_OUT)
    for where, key, value, changed in placed:
        if where is _REST:
            rest[key] = value
        elif where is not _NOWHERE:
            fields[key] = value
        if changed:
            repaired.append(key)
    if repaired:
        rest[semconv.SANITIZED] = repaired
    return fields, rest


def _fewer(placed: Sequence[Placed]) -> Sequence[Placed]:
    """The attributes of ours, and as many others as there is room for."""
    ours = [each for each in placed if each[1] in _PLACES]
    others = (each for each in placed if each[1] not in _PLACES)
    return [*ours, *islice(others, max(0, MAX_ATTRIBUTES - len(ours)))]


_TEXT, _INTEGER, _REST, _NOWHERE = _Place
_LEFT_OUT: Placed = (_NOWHERE, "", "", False)


def _identity(fields: Attributes) -> Identity:
    try:
        return _make_identity(
            fields[semconv.EXECUTION_ID],
            fields[semconv.EXECUTION_ATTEMPT],
            fields[semconv.OWNER_ID],
            fields[semconv.WORKFLOW_NAME],
            fields[semconv.WORKFLOW_SOURCE],
            fields.get(semconv.TEMPLATE_ID),
            fields.get(semconv.TEMPLATE_VERSION),
            fields.get(semconv.RECORD_LEVEL, "full"),
        )
    except KeyError as missing:
        raise BadSignal(f"{missing.args[0]} is missing") from missing


# Spans of one execution share theirs.
_make_identity = cast(Callable[..., Identity], lru_cache(maxsize=2_048)(Identity))


def _kind(fields: Attributes, attributes: Attributes) -> Kind:
    operation = attributes.get(semconv.OPERATION)
    if operation is None and semconv.NODE_ID in fields:
        return Kind.NODE
    if isinstance(operation, str) and operation in _KINDS:
        return _KINDS[operation]
    raise BadSignal(f"{semconv.OPERATION} names no kind of span")


def _status(kind: Kind, fields: Attributes, attributes: Attributes, *, failed: bool) -> str:
    """The span's own status attribute; a call without one has failed, was cancelled, or is completed."""
    own = _text(fields, semconv.NODE_STATUS) if kind is Kind.NODE else _text(attributes, semconv.EXECUTION_STATUS)
    if own is not None:
        return own
    if failed:
        return "failed"
    cancelled = _text(fields, semconv.CALL_WASTE) == semconv.Waste.CANCELLED
    return "cancelled" if cancelled else "completed"


def _text(attributes: Attributes, key: str) -> str | None:
    value = attributes.get(key)
    if value is None or isinstance(value, str):
        return value
    raise BadSignal(f"{key} is no text")


def _integer(attributes: Attributes, key: str) -> int | None:
    value = attributes.get(key)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise BadSignal(f"{key} is no whole number")
