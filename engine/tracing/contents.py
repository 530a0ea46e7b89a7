"""The content of calls: for their spans, for events, and for the database, as far as the policy allows each."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from opentelemetry._logs import Logger, LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.trace import Span, format_span_id, set_span_in_context

from engine.content import shapes
from engine.content.bounds import MAX_ATTRIBUTE_BYTES, MAX_STORED_BYTES, Cleaner, fitted
from engine.content.policy import ContentPolicy
from engine.documents.json_text import to_json
from engine.graph import Json
from engine.ledger import CallContent
from engine.resources import ModelReply, ModelRequest, Passage
from engine.tracing import semconv
from engine.tracing.attributes import Attributes

Values = Mapping[str, Json]
"""Content by the key of its attribute."""

_SAID_TWICE = frozenset({semconv.INPUT_VALUE, semconv.OUTPUT_VALUE})
"""Attributes that repeat others in the form that some trace stores show."""

_PLAIN = frozenset({semconv.TOOL_RESULT, semconv.RETRIEVAL_QUERY, semconv.INPUT_VALUE, semconv.OUTPUT_VALUE})
"""Attributes whose value is a text as it is, where it is a text; all others are JSON."""


class Contents:
    """The content of one attempt's calls. Nothing is copied or written where the policy wants none."""

    def __init__(self, policy: ContentPolicy, events: Logger) -> None:
        self.policy = policy
        self._events = events
        self._cleaner = Cleaner()
        self._kept: list[CallContent] = []

    @property
    def is_wanted(self) -> bool:
        """Whether anything needs the content of calls."""
        return self.policy.wants_calls

    def note(self, span: Span, node: Attributes, operation: str, values: Values) -> Attributes:
        """Keep and emit the content of a call that ends, as the policy says; returns the attributes for its span.

        `node` holds the attributes of its node and of the execution.
        """
        if not self.is_wanted:
            return {}
        clean = {key: self._cleaner.clean(value) for key, value in values.items()}
        self._keep(span, node, operation, clean)
        if not (self.policy.capture.on_spans or self.policy.capture.on_events):
            return {}
        attributes = _attributes(clean)
        if self.policy.capture.on_events:
            self._emit(span, {**node, semconv.OPERATION: operation, **attributes})
        return attributes if self.policy.capture.on_spans else {}

    def show(self, spans: Sequence[Span], key: str, value: Json) -> None:
        """Set the input or the answer of the execution on these spans, if the policy allows it."""
        if self.policy.capture.on_spans:
            attributes = _attributes({key: self._cleaner.clean(value)})
            for span in spans:
                span.set_attributes(attributes)

    def take(self) -> tuple[CallContent, ...]:
        """Take out the content that the database has yet to store."""
        taken, self._kept = tuple(self._kept), []
        return taken

    def put_back(self, taken: Sequence[CallContent]) -> None:
        """Put content back that was not stored."""
        self._kept[:0] = taken

    def _keep(self, span: Span, node: Attributes, operation: str, clean: Values) -> None:
        context = span.get_span_context()
        if self.policy.kept != "full" or not context.is_valid:
            return
        parts = {key: fitted(value, MAX_STORED_BYTES) for key, value in clean.items() if key not in _SAID_TWICE}
        document = "{" + ",".join(f"{to_json(key).decode()}:{text}" for key, (text, _) in parts.items()) + "}"
        cut = [key for key, (_, is_cut) in parts.items() if is_cut]
        node_id = str(node.get(semconv.NODE_ID, ""))
        call_id, now = format_span_id(context.span_id), datetime.now(UTC)
        self._kept.append(CallContent(call_id, operation, node_id, document, now, cut))

    def _emit(self, span: Span, attributes: Attributes) -> None:
        self._events.emit(
            LogRecord(
                timestamp=time.time_ns(),
                context=set_span_in_context(span, Context()),
                severity_number=SeverityNumber.INFO,
                event_name=semconv.CONTENT_EVENT,
                attributes=attributes,
            )
        )


def of_chat(request: ModelRequest, reply: ModelReply | None) -> Values:
    """The content of a model call; without an answer, what was sent."""
    found: dict[str, Json] = {
        semconv.SYSTEM_INSTRUCTIONS: [*shapes.system_instructions(request.system)],
        semconv.INPUT_MESSAGES: [*shapes.input_messages(request.messages)],
        semconv.OUTPUT_MESSAGES: [*shapes.output_messages(reply)] if reply is not None else [],
        semconv.TOOL_DEFINITIONS: [*shapes.tool_definitions(request.tools)],
    }
    return {key: value for key, value in found.items() if value}


def asked_retriever(query: str) -> dict[str, Json]:
    """The content of a query to a retriever."""
    return {semconv.RETRIEVAL_QUERY: query, semconv.INPUT_VALUE: query}


def found_passages(passages: Sequence[Passage]) -> dict[str, Json]:
    """The content of its answer."""
    return {
        semconv.RETRIEVED: [*shapes.documents(passages)],
        semconv.OUTPUT_VALUE: [*shapes.page_contents(passages)],
    }


def _attributes(clean: Values) -> Attributes:
    """The values as attributes of at most 64 KiB, with the names of those that were cut."""
    attributes: Attributes = {}
    cut: list[str] = []
    for key, value in clean.items():
        text, is_cut = _plain(value) if key in _PLAIN and isinstance(value, str) else fitted(value, MAX_ATTRIBUTE_BYTES)
        attributes[key] = text
        if is_cut:
            cut.append(key)
    return {**attributes, semconv.CONTENT_CUT: cut} if cut else attributes


def _plain(text: str) -> tuple[str, bool]:
    data = text.encode()
    if len(data) <= MAX_ATTRIBUTE_BYTES:
        return text, False
    return data[: MAX_ATTRIBUTE_BYTES - 3].decode("utf-8", "ignore") + "…", True
