"""What counts as JSON here, and where the sentence of a refusal points."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.documents.strict_json import MAX_DEPTH, MAX_INTEGER, MalformedJson, find_flaw, read_json

REFUSED = {
    b"": "line 1",
    b'{"a": 1,}': "line 1",
    b'{"a":\n tru}': "line 2",
    b"NaN": "has the value NaN",
    b"-Infinity": "has the value -Infinity",
    b"1e999": "The value at the top is no finite number",
    b'"\xff"': "UTF-8",
    b'"\\ud800"': "half a surrogate pair",
    b'{"a": 1, "a": 2}': "same key twice: line 1 column 10",
    b'{"b": {"a": 1},\n "a": [{"x": "{", "x": 2}]}': "same key twice: line 2 column 19",
    b'{"a": 1, "\\u0061": 2}': "same key twice",
    b'{"a": [1, 9007199254740992]}': "The value at /a/1 is an integer beyond",
    b"-9007199254740992": "The value at the top is an integer beyond",
    b"123456789012345678901234567890": "is an integer beyond",
    b"9007199254740992.0": "is an integer beyond",
    b"1" * 300: "is an integer beyond",
    b"1" * 5_000: "too many digits",
    b'{"a/b": "\\u0000"}': "The value at /a~1b holds NUL",
    b'{"a\\u0000": 1}': "has a key with NUL",
    b"[" * 33 + b"]" * 33: "nested deeper than 32",
    b"[" * 1_000 + b"]" * 1_000: "nested deeper than 32",
    b"[" * 9_999 + b"]" * 9_999: "nested deeper than 32",
    b"\xef\xbb\xbf{}": "line 1",
    b'{"a": "\n"}': "line 1",
    b"01": "line 1",
    "٣".encode(): "line 1",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: repr(text[:40]))
def test_json_that_parsers_read_differently_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedJson, match=REFUSED[text]):
        read_json(text)


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b"[" * 32 + b"]" * 32,
        b"9007199254740991",
        b"1e21",
        b"2.5",
        b'"\\ud83d\\ude00"',
        b'"\\\\u0000"',
        b' {"a":1}\n',
    ],
    ids=repr,
)
def test_other_json_is_read_unchanged(text: bytes) -> None:
    assert read_json(text) == json.loads(text)


@pytest.mark.parametrize(
    "value",
    [(1,), {1: 2}, object(), b"x", float("inf"), {"a": float("nan")}, "\udfff", {"\ud800": 1}],
    ids=lambda value: type(value).__name__,
)
def test_python_values_that_are_not_json_have_a_flaw(value: object) -> None:
    assert find_flaw(value) is not None


def test_a_value_that_contains_itself_is_nested_too_deep() -> None:
    value: list[object] = []
    value.append(value)
    flaw = find_flaw(value)
    assert flaw is not None
    assert flaw.kind == "depth"


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
)


@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text("abc/~", max_size=3), inner)))
def test_a_document_without_a_flaw_is_read_back_unchanged(document: object) -> None:
    if find_flaw(document) is None:
        assert read_json(orjson.dumps(document)) == document


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        document = read_json(data)
    except MalformedJson:
        return
    assert find_flaw(document) is None
    assert MAX_DEPTH == 32
