"""A signature holds for what the books keep of a signal, in whatever form it comes back, and for nothing else."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from random import Random
from typing import Any, TypeVar

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.trace import Status, StatusCode
from opentelemetry.util.types import AttributeValue

from engine.security.keys import SecretKeyMissing
from engine.tracing import semconv
from telemetry.collector.signature import Signer
from telemetry.sdk.conversion import span_record
from telemetry.signals import otlp
from telemetry.signals.otlp import Decoded
from telemetry.signals.records import BadSignal, EventRecord, Identity, Signal, SpanRecord
from tests.telemetry.bookkeeper import SIGNER, Listener
from tests.telemetry.signals.test_otlp import KEYS, VALUES, a_span, told


def came_back(signal: Signal, payload: bytes) -> Decoded:
    """What the receiver reads from a request with this encoded signal."""
    is_event = isinstance(signal, EventRecord)
    body = (otlp.logs_request if is_event else otlp.traces_request)({}, [(otlp.scope_of(signal), payload)])
    return (otlp.decode_logs if is_event else otlp.decode_traces)(body)


def is_believed(signal: Signal, payload: bytes, signer: Signer = SIGNER) -> bool:
    """Whether the signal that was encoded so is one of ours."""
    [(again, signature)] = came_back(signal, payload).signed
    return signer.has_signed(again, signature)


def shuffled(payload: bytes, carrier: type[Span] | type[LogRecord]) -> bytes:
    """The same signal with its attributes in another order, and each with its value first, as the Collector does."""
    message = carrier.FromString(payload)
    attributes = list(message.attributes)
    Random(1).shuffle(attributes)
    del message.attributes[:]
    tag = b"\x4a" if carrier is Span else b"\x32"
    encoded = [
        KeyValue(value=each.value).SerializeToString() + KeyValue(key=each.key).SerializeToString()
        for each in attributes
    ]
    fields = [tag + varint(len(each)) + each for each in encoded]
    return message.SerializeToString() + b"".join(fields)


def varint(number: int) -> bytes:
    """A length as protobuf writes it."""
    low, rest = number & 0x7F, number >> 7
    return bytes([low]) if not rest else bytes([low | 0x80]) + varint(rest)


def test_what_was_said_is_believed_in_any_order_and_without_its_part_for_the_store() -> None:
    listener = told()
    story = listener.begin()
    node = story.node("model")
    node[semconv.INPUT_MESSAGES] = "what the user said"
    node.fail("no_route", "nothing fits", unhandled=RuntimeError("x"))
    for signal in listener.signals():
        payload = otlp.encode(signal, SIGNER.sign)
        carrier = LogRecord if isinstance(signal, EventRecord) else Span
        assert is_believed(signal, payload)
        assert is_believed(signal, shuffled(payload, carrier))
        bare = replace(signal, trace_only=None) if isinstance(signal, SpanRecord) else signal
        assert SIGNER.sign(bare) == SIGNER.sign(signal)


def test_a_signature_is_in_no_record() -> None:
    for signal in told().signals():
        payload = otlp.encode(signal, SIGNER.sign)
        assert came_back(signal, payload).signals == [signal]
        decode = otlp.decode_event if isinstance(signal, EventRecord) else otlp.decode_span
        assert decode(payload) == signal


@given(st.dictionaries(KEYS, VALUES, max_size=12), st.text(), st.sampled_from(StatusCode))
def test_a_span_with_any_attributes_is_believed_when_it_comes_back(
    attributes: dict[str, AttributeValue], name: str, code: StatusCode
) -> None:
    span = a_span(attributes, name=name, status=Status(code, name if code is StatusCode.ERROR else None))
    try:
        record = span_record(span)
    except BadSignal:
        assume(False)
    assert is_believed(record, otlp.encode(record, SIGNER.sign))


def test_a_span_with_as_many_attributes_as_may_be_is_believed() -> None:
    record = span_record(a_span({f"k{number}": number for number in range(1_000)}))
    assert is_believed(record, otlp.encode(record, SIGNER.sign))


def test_every_part_of_a_record_is_signed() -> None:
    listener = Listener()
    listener.complete(1)
    for signal in listener.signals():
        signature = SIGNER.sign(signal)
        identities = [replace(signal, identity=identity) for identity in altered(signal.identity)]
        others = [*identities, *altered(signal, left_alone=("identity", "trace_only"))]
        assert len(others) > 14
        assert not any(SIGNER.has_signed(one, signature) for one in others)


T = TypeVar("T", bound=Identity | SpanRecord | EventRecord)


def altered(record: T, left_alone: Sequence[str] = ()) -> Iterator[T]:
    """The record once for each of its fields, with another value in it."""
    for each in fields(record):
        if each.name not in left_alone:
            change: dict[str, Any] = {each.name: other(getattr(record, each.name))}
            yield replace(record, **change)


def other(value: object) -> object:
    """Another value of about the same type."""
    match value:
        case int():
            return value + 1
        case str():
            return value + "x"
        case dict():
            return value | {"one": "more"}
    return "x"


@pytest.mark.parametrize("shown", [None, "", "0" * 32, "ü", "x" * 10_000])
def test_no_signature_and_a_made_up_one_are_not_believed(shown: str | None) -> None:
    [signal, *_] = told().signals()
    assert not SIGNER.has_signed(signal, shown)


def test_the_newest_key_signs_and_every_listed_one_is_believed() -> None:
    [signal, *_] = told().signals()
    old, new = "a" * 32, "b" * 32
    during_the_rotation = Signer(lambda: (new, old))
    assert is_believed(signal, otlp.encode(signal, Signer(lambda: (old,)).sign), during_the_rotation)
    assert during_the_rotation.sign(signal) == Signer(lambda: (new,)).sign(signal)
    assert not is_believed(signal, otlp.encode(signal, during_the_rotation.sign), Signer(lambda: (old,)))


def test_nothing_is_signed_or_believed_without_a_key() -> None:
    [signal, *_] = told().signals()
    keyless = Signer(tuple)
    with pytest.raises(SecretKeyMissing):
        keyless.sign(signal)
    with pytest.raises(SecretKeyMissing):
        keyless.has_signed(signal, SIGNER.sign(signal))
