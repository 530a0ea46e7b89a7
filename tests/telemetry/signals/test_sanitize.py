"""Sanitising bounds, repairs and redacts values."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.tracing import semconv
from telemetry.signals.sanitize import MAX_VALUE_BYTES, sanitize
from tests.telemetry.bookkeeper import Listener


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("a\0b", "a\ufffdb"),
        ("a\ud800b", "a\ufffdb"),
        ("key sk-abcdefghijklmnop1234", "key [redacted]"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (2**63, 2**63 - 1),
        (-(2**70), -(2**63)),
        (["a", "b\0"], ["a", "b\ufffd"]),
        ({"a": 1}, "{'a': 1}"),
        (b"x", "b'x'"),
    ],
)
def test_a_bad_value_is_repaired_and_flagged(value: object, stored: object) -> None:
    assert sanitize(value) == (stored, True)  # type: ignore[arg-type]  # what OpenTelemetry would let through


@pytest.mark.parametrize("value", ["plain", "ümlaut 🎉", 0, -5, 2**63 - 1, 1.5, True, ["a", 1], ""])
def test_a_good_value_stays_as_it_is(value: str) -> None:
    assert sanitize(value) == (value, False)


def test_a_long_text_is_cut_at_whole_characters() -> None:
    stored, changed = sanitize("ü" * 100_000)
    assert isinstance(stored, str)
    assert changed
    assert len(stored.encode()) <= MAX_VALUE_BYTES
    assert stored.endswith("ü…")


def test_a_long_list_is_cut() -> None:
    stored, changed = sanitize(["x" * 100] * 1_000)
    assert isinstance(stored, list)
    assert changed
    assert len(stored) < 100


@given(st.text() | st.integers() | st.floats() | st.lists(st.text()))
def test_a_sanitised_value_is_json_and_sanitising_it_again_changes_nothing(value: str) -> None:
    stored, _ = sanitize(value)
    again, changed = sanitize(stored)
    assert (again, changed) == (stored, False)
    str(stored).encode()


def test_a_repaired_attribute_is_named() -> None:
    listener = Listener()
    node = listener.begin().node("model")
    node[semconv.EDGE_TAKEN] = "a\0"
    node.complete(label=None, edges=None, degraded=False)
    (record,) = listener.signals()[1:]
    assert record.attributes[semconv.SANITIZED] == [semconv.EDGE_TAKEN]
