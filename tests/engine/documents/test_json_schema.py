"""The one validator of schemas that users write."""

import time

import pytest

from engine.documents.json_schema import validator


def test_a_pattern_runs_in_linear_time() -> None:
    checked = validator({"type": "string", "pattern": "^(a+)+$"})
    began = time.perf_counter()
    assert not checked.is_valid("a" * 50_000 + "!")
    assert time.perf_counter() - began < 0.25


def test_a_reference_to_another_document_is_refused() -> None:
    with pytest.raises(ValueError, match="another document"):
        validator({"$ref": "http://127.0.0.1:9/schema.json"})


def test_a_mask_replaces_the_value() -> None:
    error = next(iter(validator({"type": "string"}, mask="its value").iter_errors(41_414)))
    assert "41414" not in error.message
