"""The built-in tools."""

from datetime import UTC, datetime

import jsonschema_rs
import pytest

from engine.errors import ExpressionError, ResourceMissing, ToolFailed
from engine.graph import Json, JsonObject
from engine.resources import Passage, ToolContext
from engine.tools.builtin import builtin_tools, calculate
from tests.engine.tools.calls import call

TOOLS = builtin_tools(clock=lambda: datetime(2026, 11, 24, 1, 20, tzinfo=UTC))


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("6 * 7", 42),
        ("2 * 21.5", 43),
        ("7 / 2", 3.5),
        ("8 / 2", 4),
        ("7 % 4", 3),
        ("(1 + 2) * 3.5 - 1", 9.5),
        ("1.5e3 + 1", 1501),
        ("9007199254740990 + 1", 9007199254740991),
        ("2 > 1 ? 10 : 20", 10),
        ("0.1 + 0.2", 0.1 + 0.2),
        ("-3 + 5", 2),
    ],
)
def test_arithmetic_gives_the_expected_number(expression: str, value: Json) -> None:
    result = calculate(expression)

    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    "expression", ["1 / 0", "2 ^ 3", "__import__('os')", "input.message", "1 +", "9007199254740991 + 1"]
)
def test_invalid_expressions_raise_an_error_with_a_reason(expression: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        calculate(expression)

    assert len(caught.value.message) > 10


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "2026-11-24T01:20:00+00:00 (Tuesday, UTC)"),
        ({"time_zone": "America/New_York"}, "2026-11-23T20:20:00-05:00 (Monday, America/New_York)"),
    ],
)
async def test_the_time_is_given_in_the_requested_zone(arguments: JsonObject, expected: str) -> None:
    assert await call(TOOLS["current_time"], **arguments) == expected


@pytest.mark.parametrize("zone", ["Mars/Olympus", "../../etc/passwd", "/etc/passwd", "", "a\0b", "Europe"])
async def test_an_unknown_time_zone_fails_the_call(zone: str) -> None:
    with pytest.raises(ToolFailed, match="IANA"):
        await call(TOOLS["current_time"], time_zone=zone)


async def test_a_search_uses_the_workflows_retriever() -> None:
    asked = []

    async def search(query: str, max_documents: int) -> list[Passage]:
        asked.append((query, max_documents))
        return [Passage("1", "a.md", "text", 0.5)]

    context = ToolContext("e", "local", "k", 30, search)
    found = await TOOLS["search_docs"].call({"query": "cost"}, context)
    await TOOLS["search_docs"].call({"query": "cost", "max_documents": 2}, context)

    assert found == [{"source": "a.md", "text": "text", "score": 0.5}]
    assert asked == [("cost", 5), ("cost", 2)]


async def test_a_search_without_a_retriever_is_an_error() -> None:
    with pytest.raises(ResourceMissing, match="no retriever"):
        await call(TOOLS["search_docs"], query="x")


@pytest.mark.parametrize(
    ("tool", "arguments", "fits"),
    [
        ("calculate", {"expression": "1 + 1"}, True),
        ("calculate", {}, False),
        ("calculate", {"expression": 1}, False),
        ("search_docs", {"query": "x", "max_documents": 50}, False),
        ("current_time", {}, True),
        ("current_time", {"zone": "UTC"}, False),
    ],
)
def test_schemas_accept_exactly_the_tools_arguments(tool: str, arguments: JsonObject, fits: bool) -> None:
    assert jsonschema_rs.is_valid(TOOLS[tool].spec.parameters, arguments) is fits
