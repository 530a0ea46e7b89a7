"""The spans below the root: one per attempt of a node, and below it one per model call, tool call and retrieval."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, format_span_id
from opentelemetry.util.types import AttributeValue

from engine.graph import Json
from engine.resources import (
    OFFLINE_PROVIDER,
    ChatModel,
    CostSource,
    ModelReply,
    ModelRequest,
    Passage,
    Price,
    Prices,
    Served,
    Unpriced,
)
from engine.security.redaction import error_text, redact
from engine.tracing import semconv
from engine.tracing.attributes import (
    OPENAI,
    Attributes,
    bill_attributes,
    request_attributes,
    usage_attributes,
    with_former_names,
)
from engine.tracing.contents import Contents, Values, asked_retriever, found_passages, of_chat
from engine.tracing.semconv import Event, NodeStatus, Operation, Waste
from engine.tracing.time_ledger import Phase, TimeLedger
from engine.usage import Totals, Usage, UsageReport

FREE_REFUSALS = frozenset(
    {"rate_limited", "overloaded", "auth", "bad_request", "context_too_long", "model_not_found", "resource_missing"}
)
"""Errors with which a provider refuses a call before doing any work: the call cost nothing, if no answer had begun."""

MAX_NANO_USD = 10**14
"""The most that one call can cost, $100,000. More is taken for an error: 64 bits hold the sums of 92,000 such calls."""

_LEAF_KEYS = (semconv.NODE_ID, semconv.NODE_TYPE, semconv.NODE_ATTEMPT)


class Recorder(Protocol):
    """The part of the tracker that its spans use."""

    totals: Totals
    time: TimeLedger
    prices: Prices
    identity_attributes: Attributes
    call_attributes: Attributes
    contents: Contents

    def start_leaf(self, node: "NodeSpan", name: str, kind: SpanKind, phase: Phase, attributes: Attributes) -> Span:
        """Start the span of a call below a node, and count its time in the time ledger."""

    def count_span(self, span: Span, *, always_kept: bool) -> None:
        """Add a span to the seal, if the record level stores it."""

    def emit_event(self, event: Event, attributes: Attributes, span: Span | None = None) -> None:
        """Emit an event in the context of `span`; null means the root span."""

    def emit_exception(self, span: Span, attributes: Attributes) -> None:
        """Emit the event of a model call that failed, in the context of its span."""


class NodeSpan:
    """The span of one attempt of a node visit. Attributes that are set while it runs are written when it ends."""

    __slots__ = ("_extra", "_recorder", "_static", "span")

    def __init__(self, recorder: Recorder, span: Span, static: Attributes) -> None:
        self._recorder = recorder
        self.span = span
        self._static = static
        self._extra: Attributes = {}

    def __setitem__(self, key: str, value: AttributeValue) -> None:
        self._extra[key] = value

    def update(self, attributes: Attributes) -> None:
        """Set several attributes."""
        self._extra.update(attributes)

    def note_content(self, span: Span, operation: Operation, values: Values) -> Attributes:
        """Note the content of a call below the node; returns the attributes for its span."""
        return self._recorder.contents.note(span, self._static, operation.value, values)

    @property
    def leaf_attributes(self) -> Attributes:
        """Attributes about the node for the spans of its calls."""
        return {key: self._static[key] for key in _LEAF_KEYS}

    def complete(self, *, label: str | None, edges: str | None, degraded: bool) -> None:
        """End the span of a completed attempt."""
        if label is not None:
            self._extra[semconv.NODE_LABEL] = label
        if edges is not None:
            self._extra[semconv.EDGE_TAKEN] = edges
        if degraded:
            self._extra[semconv.NODE_DEGRADED] = True
        self.span.set_status(StatusCode.OK)
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
        """End the span of an attempt that failed for good. An unhandled exception is recorded here, once."""
        self._recorder.totals.nodes_failed += 1
        if edges is not None:
            self._extra[semconv.EDGE_TAKEN] = edges
        if degraded:
            self._extra[semconv.NODE_DEGRADED] = True
        if unhandled is not None:
            self.span.add_event(
                semconv.EXCEPTION_ON_SPAN,
                {
                    semconv.EXCEPTION_TYPE: type(unhandled).__qualname__,
                    semconv.EXCEPTION_MESSAGE: error_text(message),
                },
            )
        self._error(error_type, message)
        self._end(NodeStatus.FAILED)

    def retrying(self, error_type: str, message: str, delay_seconds: float) -> None:
        """End the span of a failed attempt that is retried, and emit `retrying`."""
        self._recorder.totals.nodes_retried += 1
        self._error(error_type, message)
        self._recorder.emit_event(
            Event.NODE_RETRYING,
            {
                **self._recorder.identity_attributes,
                **self.leaf_attributes,
                semconv.ERROR_TYPE: error_type,
                semconv.RETRY_DELAY_MS: round(delay_seconds * 1000),
            },
            self.span,
        )
        self._end(NodeStatus.RETRYING)

    def cancel(self) -> None:
        """End the span of a cancelled attempt."""
        self._end(NodeStatus.CANCELLED)

    def pause(self) -> None:
        """End the span of an attempt that pauses; a later attempt of the execution continues the visit."""
        self._end(NodeStatus.PAUSED)

    def model_call(self, model: ChatModel, request: ModelRequest, *, streams: bool = False) -> "ModelCall":
        """Start the span of one provider call; `streams`: its answer is asked for as a stream."""
        return ModelCall(self._recorder, self, model, request, streams=streams)

    def tool_call(self, name: str, call_id: str, arguments: Json = None, description: str = "") -> "ToolCallSpan":
        """Start the span of one attempt of a tool call."""
        return ToolCallSpan(self._recorder, self, name, call_id, arguments, description)

    def retrieval(self, source: str, query: str = "", max_documents: int | None = None) -> "RetrievalSpan":
        """Start the span of one query to a retriever."""
        return RetrievalSpan(self._recorder, self, source, query, max_documents)

    def _error(self, error_type: str, message: str) -> None:
        self._extra[semconv.ERROR_TYPE] = error_type
        self.span.set_status(Status(StatusCode.ERROR, error_text(message)))

    def _end(self, status: NodeStatus) -> None:
        self._extra[semconv.NODE_STATUS] = status.value
        self.span.set_attributes(self._extra)
        self._recorder.count_span(self.span, always_kept=False)
        self.span.end()


class LeafCall:
    """The span of one tool call or retrieval."""

    operation: Operation

    def __init__(self, recorder: Recorder, node: NodeSpan, name: str, kind: SpanKind, attributes: Attributes) -> None:
        self._recorder = recorder
        self._node = node
        self._content: dict[str, Json] = {}
        """Content by the key of its attribute, as far as it is known."""
        everything: Attributes = {semconv.OPERATION: self.operation.value, **attributes}
        self._span = recorder.start_leaf(node, name, kind, Phase.TOOL, everything)

    def _succeed(self, attributes: Attributes) -> None:
        self._span.set_status(StatusCode.OK)
        self._end(attributes)

    def fail(self, error_type: str, message: str) -> None:
        """End the span of a call that failed, timed out or was refused."""
        self._span.set_status(Status(StatusCode.ERROR, error_text(message)))
        self._end({semconv.ERROR_TYPE: error_type})

    def cancel(self) -> None:
        """End the span of a call that was cancelled with the execution."""
        self._end({semconv.CALL_WASTE: Waste.CANCELLED.value})

    def _end(self, attributes: Attributes) -> None:
        self._recorder.time.leave(Phase.TOOL)
        if self._recorder.contents.is_wanted:
            attributes = attributes | self._node.note_content(self._span, self.operation, self._content)
        self._span.set_attributes(attributes)
        self._recorder.count_span(self._span, always_kept=False)
        self._span.end()


class Bill(NamedTuple):
    """What an ended model call used and cost, as far as it is known."""

    usage: Usage | None
    price: Price


class ToolCallSpan(LeafCall):
    """The span of one attempt of a tool call."""

    operation = Operation.TOOL

    def __init__(
        self, recorder: Recorder, node: NodeSpan, name: str, call_id: str, arguments: Json, description: str
    ) -> None:
        recorder.totals.tool_calls += 1
        attributes: Attributes = {
            semconv.TOOL_NAME: name,
            semconv.TOOL_CALL_ID: call_id,
            semconv.TOOL_TYPE: "function",
        }
        if description:
            attributes[semconv.TOOL_DESCRIPTION] = redact(description)
        super().__init__(recorder, node, f"{semconv.SPAN_TOOL} {name}", SpanKind.INTERNAL, attributes)
        self._content[semconv.TOOL_ARGUMENTS] = arguments

    def answered(self, result: str) -> None:
        """Note what the model is told, a result or an error; before the span ends."""
        self._content[semconv.TOOL_RESULT] = result

    def complete(self) -> None:
        """End the span of a call that returned a result."""
        self._succeed({})


class RetrievalSpan(LeafCall):
    """The span of one query to a retriever."""

    operation = Operation.RETRIEVAL

    def __init__(self, recorder: Recorder, node: NodeSpan, source: str, query: str, max_documents: int | None) -> None:
        attributes: Attributes = {semconv.DATA_SOURCE_ID: source}
        if max_documents is not None:
            attributes[semconv.RETRIEVAL_TOP_K] = max_documents
        super().__init__(recorder, node, f"{semconv.SPAN_RETRIEVAL} {source}", SpanKind.CLIENT, attributes)
        self._content |= asked_retriever(query)

    def complete(self, passages: Sequence[Passage] = ()) -> None:
        """End the span of a query that was answered."""
        self._content |= found_passages(passages)
        top_score = passages[0].score if passages else 0.0
        self._succeed({semconv.RETRIEVAL_DOCUMENTS: len(passages), semconv.RETRIEVAL_TOP_SCORE: top_score})


class ModelCall:
    """The span of one provider call, the only span with its own usage and cost."""

    def __init__(
        self, recorder: Recorder, node: NodeSpan, model: ChatModel, request: ModelRequest, *, streams: bool
    ) -> None:
        self._recorder = recorder
        self._node = node
        self._model = model
        self._request = request
        self._reply: ModelReply | None = None
        self._began = time.perf_counter()
        self._at = datetime.now(UTC)
        self._extra: Attributes = {}
        self.answer_has_begun = False
        """Set as soon as anything of the answer has arrived: then an error is no free refusal any more."""
        self.heard = UsageReport()
        """What the provider has reported so far. It is booked if the call breaks off."""
        self._served = Served(model.server_address, request.settings.service_tier)
        recorder.totals.model_calls += 1
        recorder.totals.offline_calls += model.provider == OFFLINE_PROVIDER
        self._span = recorder.start_leaf(
            node,
            f"{semconv.SPAN_CHAT} {redact(model.model)}",
            SpanKind.CLIENT,
            Phase.MODEL,
            request_attributes(model, request, streams=streams) | recorder.call_attributes,
        )

    @property
    def id(self) -> str:
        """Hex id of the span; zeros where nothing is recorded."""
        return format_span_id(self._span.get_span_context().span_id)

    def first_chunk(self) -> None:
        """Note the time of the first piece of a streamed response."""
        self._extra[semconv.TIME_TO_FIRST_CHUNK] = time.perf_counter() - self._began

    def complete(self, reply: ModelReply) -> Bill:
        """End the span of a call that the provider answered."""
        self._reply = reply
        if reply.model:
            self._extra[semconv.RESPONSE_MODEL] = reply.model
        if reply.response_id:
            self._extra[semconv.RESPONSE_ID] = reply.response_id
        if reply.finish_reason:
            self._extra[semconv.FINISH_REASONS] = [reply.finish_reason]
        if reply.system_fingerprint and self._model.provider == OPENAI:
            self._extra[semconv.RESPONSE_FINGERPRINT] = reply.system_fingerprint
        self._span.set_status(StatusCode.OK)
        return self._end(reply.report, None)

    def fail(
        self,
        error_type: str,
        message: str,
        waste: Waste,
        report: UsageReport | None = None,
        error: BaseException | None = None,
    ) -> Bill:
        """End the span of a failed call; `report` is the provider's, null if it is what was heard so far.

        A call that the provider refused before any answer cost nothing. `error` is what the adapter raised.
        """
        self._span.set_status(Status(StatusCode.ERROR, error_text(message)))
        self._extra[semconv.ERROR_TYPE] = error_type
        self._tell_exception(error_type, message, error)
        report = report or self.heard
        is_free = report.usage is None and error_type in FREE_REFUSALS and not self.answer_has_begun
        return self._end(report, waste, Price(0, CostSource.NONE) if is_free else None)

    def cancel(self) -> Bill:
        """End the span of a cancelled call."""
        return self._end(self.heard, Waste.CANCELLED)

    def withdraw(self) -> Bill:
        """The call was never sent, and cost nothing."""
        return self._end(UsageReport(), Waste.CANCELLED, Price(0, CostSource.NONE))

    def _tell_exception(self, error_type: str, message: str, error: BaseException | None) -> None:
        """Emit the event of the failure, under the class of the provider's own error where there is one."""
        cause = error and (error.__cause__ or error)
        named: Attributes = {} if cause is None else {semconv.EXCEPTION_TYPE: _class_name(cause)}
        told: Attributes = {
            **self._node.leaf_attributes,
            semconv.OPERATION: Operation.CHAT.value,
            semconv.PROVIDER: self._model.provider,
            semconv.REQUEST_MODEL: self._model.model,
            semconv.ERROR_TYPE: error_type,
            semconv.EXCEPTION_MESSAGE: error_text(message),
        }
        self._recorder.emit_exception(self._span, told | named)

    def _price(self, usage: Usage | None) -> Price:
        model = self._model
        price = self._recorder.prices.price(model.provider, model.model, usage, self._at, self._served)
        is_possible = price.nano_usd is None or 0 <= price.nano_usd <= MAX_NANO_USD
        return price if is_possible else Price(None, CostSource.NONE, reason=Unpriced.AMOUNT)

    def _hear(self, report: UsageReport) -> None:
        """Note what the provider says of its bill beside the usage: the tier of its answer, and the cost."""
        tier = report.service_tier.lower() if report.service_tier else None
        cost = report.provider_cost_nano_usd
        cost = cost if cost is not None and 0 <= cost <= MAX_NANO_USD else None
        self._served = Served(self._served.host, tier or self._served.tier, cost)
        self._extra.update(bill_attributes(self._model.provider, tier, cost))

    def _end(self, report: UsageReport, waste: Waste | None, price: Price | None = None) -> Bill:
        """End the span; a null price is that of the reported usage."""
        usage = self._possible(report.usage)
        self._hear(report)
        price = price or self._price(usage)
        self._recorder.time.leave(Phase.MODEL)
        if waste is not None:
            self._extra[semconv.CALL_WASTE] = waste.value
        if report.unread_keys:
            self._extra[semconv.USAGE_UNREAD] = report.unread_keys
        if usage is not None:
            self._extra.update(usage_attributes(usage, semconv.CALL_TOKENS | semconv.CALL_PARTS))
            if report.is_partial:
                self._extra[semconv.USAGE_PARTIAL] = True
        self._book(usage, price, waste)
        if self._recorder.contents.is_wanted:
            values = of_chat(self._request, self._reply)
            self._extra |= self._node.note_content(self._span, Operation.CHAT, values)
        self._span.set_attributes(with_former_names(self._extra))
        self._recorder.count_span(self._span, always_kept=True)
        self._span.end()
        return Bill(usage, price)

    def _possible(self, usage: Usage | None) -> Usage | None:
        """The usage, if one call can have these counts; else null, and the span says that it was rejected."""
        if usage is None or usage.is_possible:
            return usage
        self._extra[semconv.USAGE_REJECTED] = True
        return None

    def _book(self, usage: Usage | None, price: Price, waste: Waste | None) -> None:
        self._extra[semconv.COST_SOURCE] = price.source.value
        if price.version is not None:
            self._extra[semconv.PRICE_VERSION] = price.version
        if price.nano_usd is None:
            self._extra[semconv.UNPRICED_REASON] = (price.reason or Unpriced.USAGE).value
        else:
            self._extra[semconv.COST_NANO_USD] = price.nano_usd
            self._extra[semconv.GENAI_COST] = price.nano_usd / 1e9
            if price.input_nano_usd is not None:
                self._extra[semconv.INPUT_COST_NANO_USD] = price.input_nano_usd
        self._recorder.totals.add_call(
            usage,
            price.nano_usd,
            failed=semconv.ERROR_TYPE in self._extra,
            wasted=waste is not None,
            assumed=price.source is CostSource.ASSUMED,
        )


def _class_name(error: BaseException) -> str:
    """The name of its class, with the module unless it is built in."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
