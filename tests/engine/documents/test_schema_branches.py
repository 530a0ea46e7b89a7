"""How often a JSON Schema may be applied to one value."""

from typing import Any

import pytest

from engine.documents.schema_branches import MAX_BRANCHES, UnusableSchema, count_branches, steps_to, target


@pytest.mark.parametrize(
    ("schema", "branches"),
    [
        ({}, 1),
        ({"type": "string"}, 1),
        ({"anyOf": [{}, {}, {}]}, 4),
        ({"if": {}, "then": {}, "else": {}}, 4),
        ({"not": {"$ref": "#/$defs/a"}, "$defs": {"a": {"allOf": [{}, {}]}}}, 5),
        ({"properties": {"a": {"anyOf": [{}, {}]}, "b": {}}}, 3),
        ({"patternProperties": {"a": {}, "b": {}}}, 2),
        ({"prefixItems": [{}, {"oneOf": [{}, {}]}], "items": {}}, 4),
        ({"$defs": {"unused": {"anyOf": [{}] * 2_000}}}, 1),
    ],
)
def test_every_subschema_that_is_applied_to_one_value_counts(schema: dict[str, Any], branches: int) -> None:
    assert count_branches(schema) == branches


def test_more_alternatives_than_the_limit_are_seen() -> None:
    assert count_branches({"anyOf": [{}] * 5_000}) > MAX_BRANCHES


def test_a_reference_gives_the_way_in_the_document() -> None:
    assert steps_to("#/$defs/a~1b%20c/0") == ("$defs", "a/b c", "0")
    assert target({"$defs": {"a/b c": [{"type": "null"}]}}, "#/$defs/a~1b%20c/0") == {"type": "null"}


@pytest.mark.parametrize("reference", ["#/$defs/b", "#/$defs/a/1", "#/$defs/a/x", "#anchor", "other.json", 5, None])
def test_a_reference_to_nowhere_is_refused(reference: Any) -> None:
    with pytest.raises(UnusableSchema):
        target({"$defs": {"a": [{}]}}, reference)
