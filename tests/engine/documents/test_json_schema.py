"""The one check of schemas that users write."""

import time
from typing import Any

import pytest

from engine.documents.json_schema import Mismatch, compiled
from engine.documents.schema_branches import UnusableSchema


def test_a_value_that_fits_has_no_mismatch() -> None:
    assert compiled({"type": "string"}).find_mismatch("text") is None


def test_a_mismatch_has_its_place_in_value_and_schema() -> None:
    schema: dict[str, Any] = {
        "properties": {"rows": {"items": {"$ref": "#/$defs/row"}}},
        "$defs": {"row": {"minimum": 5}},
    }
    assert compiled(schema).find_mismatch({"rows": [7, 3]}) == Mismatch(
        ("rows", 1), ("$defs", "row", "minimum"), "minimum", "3 is less than the minimum of 5"
    )


def test_a_pattern_runs_in_linear_time() -> None:
    checked = compiled({"type": "string", "pattern": "^(a+)+$"})
    began = time.process_time()
    assert checked.find_mismatch("a" * 50_000 + "!") is not None
    assert time.process_time() - began < 2


def test_a_reference_to_another_document_is_refused() -> None:
    with pytest.raises(UnusableSchema, match="JSON pointer in this schema"):
        compiled({"$ref": "http://127.0.0.1:9/schema.json"})


def test_the_place_of_a_fault_in_a_schema_is_said() -> None:
    with pytest.raises(UnusableSchema) as refused:
        compiled({"properties": {"a": {"type": "text"}}})
    assert refused.value.path == ("properties", "a", "type")


def test_a_mask_replaces_the_value() -> None:
    mismatch = compiled({"type": "string"}, mask="its value").find_mismatch(41_414)
    assert mismatch is not None
    assert "41414" not in mismatch.message
    assert mismatch.message.startswith("its value")


def test_the_message_on_a_value_that_is_too_large_to_describe_is_masked_too() -> None:
    mismatch = compiled({"anyOf": [{"maxLength": 5}] * 900}, mask="its value").find_mismatch("x" * 250_000)
    assert mismatch == Mismatch((), (), "", "its value does not fit the schema")
