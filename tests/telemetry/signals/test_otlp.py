"""Signals encoded as OTLP decode to the same records, whoever encoded them."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from google.protobuf.message import DecodeError
from hypothesis import assume, given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from engine.pause import Paused
from engine.tracing import semconv
from engine.tracing.semconv import Event
from telemetry.sdk.conversion import event_record, for_other_tools, readable_span, span_record
from telemetry.signals import otlp
from telemetry.signals.otlp import Undecodable
from telemetry.signals.records import BadSignal, EventRecord, Signal, SpanRecord, Value
from telemetry.signals.sanitize import MAX_ATTRIBUTES
from tests.telemetry.bookkeeper import Listener

RESOURCE: dict[str, str | int | float | bool | list[str | int | float | bool]] = {"service.name": "spanloom"}


def told() -> Listener:
    """Executions that end in every way, with every kind of span."""
    listener = Listener()
    for end in ("complete", "fail", "cancel"):
        story = listener.begin(streaming=end == "fail", template_version=None if end == "cancel" else 3)
        story.answer()
        story.answer(wasted=True)
        story.answer(usage=None)
        story.tool()
        story.cancelled_call()
        story.tracker.budget(Event.BUDGET_WARNING, limit=100, spent=90, unit="tokens")
        story.node("model").fail("no_route", "nothing fits", unhandled=RuntimeError("x"))
        if end == "complete":
            story.tracker.complete()
        elif end == "fail":
            story.tracker.fail("timeout", "too late", "n1")
        else:
            story.tracker.cancel("enough")
    return listener


def decode(signal: Signal) -> Signal:
    """Written and read back."""
    payload = otlp.encode(signal)
    return otlp.decode_span(payload) if isinstance(signal, SpanRecord) else otlp.decode_event(payload)


def test_every_signal_of_an_execution_is_read_back_as_it_was() -> None:
    signals = told().signals()
    assert len(signals) > 40
    assert [decode(signal) for signal in signals] == signals


def test_the_event_of_a_queued_execution_has_the_ids_of_its_root_span() -> None:
    listener = Listener()
    listener.queue()
    (queued,) = listener.signals()
    assert isinstance(queued, EventRecord)
    assert queued.trace_id is not None
    assert queued.span_id is not None
    assert decode(queued) == queued


def test_an_event_with_an_id_of_zeros_has_no_trace() -> None:
    listener = Listener()
    listener.queue()
    (queued,) = listener.signals()
    assert isinstance(queued, EventRecord)
    sent = LogRecord.FromString(otlp.encode(queued))
    sent.trace_id, sent.span_id = bytes(16), bytes(8)
    assert otlp.decode_event(sent.SerializeToString()) == replace(queued, trace_id=None, span_id=None)
    assert decode(replace(queued, trace_id=None, span_id=None)) == replace(queued, trace_id=None, span_id=None)


def test_spans_have_the_same_status_in_a_trace_both_ways() -> None:
    """OK if completed, ERROR if failed; cancelled and paused have none."""
    listener = told()
    story = listener.begin()
    node = story.node("tools")
    node.tool_call("calculate", "call-9").cancel()
    node.pause()
    story.tracker.pause(Paused([], datetime.now(UTC)))
    spans = listener.spans.get_finished_spans()
    sent = {span.context.span_id: span.status.status_code.value for span in spans}
    encoded = [Span.FromString(otlp.encode(span_record(span))) for span in spans]
    assert {int.from_bytes(span.span_id): span.status.code for span in encoded} == sent
    by_status = {(span_record(span).status, span.status.status_code) for span in spans}
    assert by_status == {
        ("completed", StatusCode.OK),
        ("failed", StatusCode.ERROR),
        ("retrying", StatusCode.ERROR),
        ("cancelled", StatusCode.UNSET),
        ("paused", StatusCode.UNSET),
    }


@pytest.mark.parametrize("end", ["cancelled", "paused"])
def test_a_root_that_was_cancelled_or_paused_shows_it_as_an_event(end: str) -> None:
    listener = Listener()
    story = listener.begin()
    if end == "cancelled":
        story.tracker.cancel("enough")
    else:
        story.tracker.pause(Paused([], datetime(2026, 11, 24, tzinfo=UTC)))
    [root] = listener.spans.get_finished_spans()
    sent = Span.FromString(otlp.encode(span_record(root)))
    said = {"cancelled": {"workflow.cancel.reason"}, "paused": {"workflow.due_at"}}[end]
    for events in (root.events, sent.events):
        [event] = events
        assert event.name == f"workflow.execution.{end}"
    assert {pair.key for pair in sent.events[0].attributes} == said
    assert root.name == "invoke_workflow answer", "no status in the name"


def test_a_record_is_exported_as_the_span_that_it_was_made_from() -> None:
    for span in told().spans.get_finished_spans():
        record = span_record(span)
        again = readable_span(record, span.resource)
        assert span_record(again) == record
        assert (again.status.status_code, again.kind) == (span.status.status_code, span.kind)
        assert [event.name for event in again.events] == [event.name for event in span.events]
        assert again.instrumentation_scope is not None
        assert span.instrumentation_scope is not None
        assert again.instrumentation_scope.name == span.instrumentation_scope.name


@pytest.mark.parametrize("missing", ["trace_id", "span_id"])
def test_a_span_without_an_id_is_refused(missing: str) -> None:
    sent = Span.FromString(otlp.encode(told().signals()[-1]))
    sent.ClearField(missing)  # type: ignore[arg-type]  # one of the names of its fields
    with pytest.raises(BadSignal, match="no id"):
        otlp.decode_span(sent.SerializeToString())


def test_output_of_the_stock_exporter_decodes_to_the_same_records() -> None:
    listener = told()
    spans, events = listener.spans.get_finished_spans(), listener.journalled()
    traces = otlp.decode_traces(encode_spans(spans).SerializeToString())
    logs = otlp.decode_logs(encode_logs(events).SerializeToString())
    assert sorted(traces.signals, key=otlp.signal_id) == sorted(map(span_record, spans), key=otlp.signal_id)
    assert sorted(logs.signals, key=otlp.signal_id) == sorted(map(event_record, events), key=otlp.signal_id)
    assert (traces.unreadable, logs.unreadable) == ([], [])


VALUES = st.text() | st.integers() | st.floats() | st.booleans() | st.lists(st.text()) | st.lists(st.floats())
KEYS = st.sampled_from(sorted(semconv.ATTRIBUTES)) | st.text(min_size=1)


@given(st.dictionaries(KEYS, VALUES, max_size=12), st.text(), st.sampled_from(StatusCode))
def test_any_attributes_give_the_same_record_both_ways(
    attributes: dict[str, AttributeValue], name: str, code: StatusCode
) -> None:
    span = a_span(attributes, name=name, status=Status(code, name if code is StatusCode.ERROR else None))
    try:
        record = span_record(span)
    except BadSignal:
        assume(False)
    again = decode(record)
    assert again == record
    assert isinstance(again, SpanRecord)
    assert {key: type(value) for key, value in again.attributes.items()} == {
        key: type(value) for key, value in record.attributes.items()
    }


@pytest.mark.parametrize("former_names", [True, False])
@pytest.mark.parametrize("others", [MAX_ATTRIBUTES - 60, MAX_ATTRIBUTES])
def test_former_names_take_no_room_from_other_attributes(others: int, former_names: bool) -> None:
    record = span_record(a_span({f"own.{number}": number for number in range(others)}))
    assert semconv.AGENT_NAME in record.attributes
    room = MAX_ATTRIBUTES - len(record.fields) - len(record.attributes)
    record = replace(record, attributes=record.attributes | {f"more.{number}": 1 for number in range(room)})
    assert otlp.decode_span(otlp.encode(record, former_names=former_names)) == record


def a_span(attributes: dict[str, AttributeValue], *, name: str = "s", status: Status | None = None) -> ReadableSpan:
    """A workflow span with these attributes, as far as they are not its identity."""
    scope = InstrumentationScope(semconv.SCOPE_ENGINE)
    root = next(span for span in told().spans.get_finished_spans() if span.parent is None)
    identity = {key: value for key, value in (root.attributes or {}).items() if key in semconv.ATTRIBUTES}
    rest = {key: value for key, value in attributes.items() if key not in identity}
    return ReadableSpan(
        name,
        SpanContext(1, 2, is_remote=False),
        attributes=rest | identity,
        start_time=5,
        end_time=9,
        status=status or Status(),
        instrumentation_scope=scope,
    )


def test_links_exceptions_and_content_are_for_the_trace_store_alone() -> None:
    listener = Listener()
    story = listener.begin()
    node = story.node("model")
    node[semconv.INPUT_MESSAGES] = "what the user said"
    node.span.add_link(SpanContext(11, 12, is_remote=True))
    node.fail("no_route", "nothing fits", unhandled=RuntimeError("x"))
    (sdk_span,) = listener.spans.get_finished_spans()
    record = span_record(sdk_span)

    sent = Span.FromString(otlp.encode(record))

    assert sent.links[0].trace_id.hex() == f"{11:032x}"
    assert [event.name for event in sent.events] == ["exception"]
    assert {pair.key: pair.value.string_value for pair in sent.attributes}[
        semconv.INPUT_MESSAGES
    ] == "what the user said"
    again = otlp.decode_span(sent.SerializeToString())
    assert (again, again.trace_only) == (record, None)
    assert "what the user said" not in f"{record}{again}"


@pytest.mark.parametrize("opt_in", ["", "gen_ai_latest_experimental"])
def test_both_modes_say_the_same_to_other_tools(monkeypatch: pytest.MonkeyPatch, opt_in: str) -> None:
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", opt_in)

    def shown(span: Span) -> tuple[str, dict[str, str], list[tuple[str, int, dict[str, str]]]]:
        events = [(event.name, event.time_unix_nano, _texts(event.attributes)) for event in span.events]
        return span.name, _texts(span.attributes), events

    ended = told().spans.get_finished_spans()
    exported = encode_spans([for_other_tools(span) for span in ended])
    embedded = {
        each.span_id: each for scope in exported.resource_spans for one in scope.scope_spans for each in one.spans
    }
    shipped = [Span.FromString(otlp.encode(span_record(span), former_names=not opt_in)) for span in ended]
    assert len(shipped) > 20
    assert [shown(span) for span in shipped] == [shown(embedded[span.span_id]) for span in shipped]
    assert {event.name for span in shipped for event in span.events} >= {"exception"}


def _texts(attributes: Iterable[KeyValue]) -> dict[str, str]:
    """All but the error message, which a shipped span has in its status alone."""
    return {pair.key: str(pair.value) for pair in attributes if pair.key != semconv.ERROR_MESSAGE}


def test_what_other_tools_are_told_comes_back_into_no_record() -> None:
    listener = Listener()
    story = listener.begin()
    story.tracker.complete()
    record = next(span_record(span) for span in listener.spans.get_finished_spans() if span.parent is None)
    sent = Span.FromString(otlp.encode(record))
    for key in (*semconv.PEER_KEYS, *(f"{prefix}x" for prefix in semconv.PEER_PREFIXES)):
        sent.attributes.add(key=key).value.string_value = "forged"
    assert otlp.decode_span(sent.SerializeToString()) == record


def test_a_user_is_stripped_with_the_content() -> None:
    sent = Span(attributes=[KeyValue(key=semconv.USER_ID, value=AnyValue(string_value="ada"))])
    stripped = otlp.strip_span(sent.SerializeToString())
    assert stripped is not None
    assert b"ada" not in stripped


def test_a_request_holds_each_scope_once() -> None:
    spans = [signal for signal in told().signals() if isinstance(signal, SpanRecord)]
    body = otlp.traces_request(RESOURCE, [(otlp.scope_of(span), otlp.encode(span)) for span in spans])
    assert sorted(otlp.decode_traces(body).signals, key=otlp.signal_id) == sorted(spans, key=otlp.signal_id)
    assert body.count(semconv.SCOPE_GENAI.encode()) == body.count(b"service.name") == 1


def test_the_scope_of_a_signal_is_that_of_its_span() -> None:
    for span in told().spans.get_finished_spans():
        assert span.instrumentation_scope is not None
        assert otlp.scope_of(span_record(span)) == span.instrumentation_scope.name


def test_other_libraries_are_left_out() -> None:
    payload = otlp.encode(told().signals()[-1])
    body = otlp.traces_request(RESOURCE, [("fastapi", payload)])
    assert otlp.decode_traces(body) == otlp.Decoded()


def test_malformed_signals_are_separated_from_good_ones() -> None:
    good = told().signals()[-1]
    bad = Span(name="lost", trace_id=bytes(16), span_id=bytes(8)).SerializeToString()
    odd = Span.FromString(otlp.encode(good))
    odd.span_id = b"short"
    scope = semconv.SCOPE_ENGINE
    body = otlp.traces_request(RESOURCE, [(scope, bad), (scope, otlp.encode(good)), (scope, odd.SerializeToString())])
    decoded = otlp.decode_traces(body)
    assert decoded.signals == [good]
    assert [said["name"] for _, said in decoded.unreadable] == ["lost", good.name]


@pytest.mark.parametrize("body", [b"\xff", b"{}", b"no protobuf"])
def test_other_bytes_are_undecodable(body: bytes) -> None:
    with pytest.raises(Undecodable):
        otlp.decode_traces(body)
    with pytest.raises(Undecodable):
        otlp.decode_logs(body)


def test_bytes_that_are_no_attribute_are_undecodable() -> None:
    payload = otlp.encode(told().signals()[-1]) + b"\x4a\x02\x0a\xff"
    for read in (otlp.decode_span, Span.FromString):
        with pytest.raises((Undecodable, DecodeError)):
            read(payload)
    with pytest.raises(Undecodable):
        otlp.decode_traces(otlp_request(payload))


def otlp_request(payload: bytes) -> bytes:
    """An export request of one span of ours, which may be broken."""
    scope = _field(1, _field(1, semconv.SCOPE_ENGINE.encode()))
    return _field(1, _field(2, scope + _field(2, payload)))


def _field(number: int, data: bytes) -> bytes:
    length, varint = len(data), bytearray()
    while length > 127:
        varint.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2, *varint, length]) + data


@pytest.mark.parametrize("number", [10, 20_000])
def test_an_attribute_is_read_alike_however_often_it_came(number: int) -> None:
    span = next(signal for signal in told().signals() if isinstance(signal, SpanRecord))
    values: list[Value] = [True, 1, 1.0, "1", "\0", [True], [1]]
    odd = [replace(span, attributes={"workflow.nested": value}) for value in values]
    variants = [replace(span, attributes={"x": f"text {index}"}) for index in range(number)]
    first = [repr(decode(one)) for one in [*odd, *variants]]
    assert [repr(decode(one)) for one in [*odd, *variants]] == first
    assert len(set(first)) == len(first)


def test_an_event_says_its_name_and_when() -> None:
    event = next(signal for signal in told().signals() if isinstance(signal, EventRecord))
    again = decode(event)
    assert isinstance(again, EventRecord)
    assert (again.name, again.at_ns, again.seq) == (Event.STARTED, event.at_ns, 1)
