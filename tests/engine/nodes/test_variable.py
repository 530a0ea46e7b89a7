"""A variable node: its operations."""

import pytest

from engine.graph import Json, JsonObject
from tests.engine.harness import Harness, graph


@pytest.mark.parametrize(
    ("config", "start", "value"),
    [
        ({"operation": "set", "value": {"a": 1}}, None, {"a": 1}),
        ({"operation": "set", "expression": "1 + 2"}, None, 3),
        ({"operation": "set", "value": "{{ input.message }}!"}, None, "hello!"),
        ({"operation": "append", "value": 1}, None, [1]),
        ({"operation": "append", "value": 2}, [1], [1, 2]),
        ({"operation": "increment"}, None, 1),
        ({"operation": "decrement", "value": 2}, 5, 3),
        ({"operation": "get"}, 7, 7),
    ],
)
async def test_an_operation_gives_the_value_of_the_variable(config: JsonObject, start: Json, value: Json) -> None:
    nodes: list[JsonObject] = [
        {"id": "v", "type": "variable", "config": {"variable_name": "x", **config}},
        {"id": "end", "type": "end", "config": {"output": "{{ outputs.v.value }}"}},
    ]
    variables: JsonObject = {} if start is None else {"x": start}
    run = await Harness().run(graph(nodes, ["start -> v", "v -> end"], variables=variables))
    assert run.result.output == value


@pytest.mark.parametrize(("operation", "start"), [("append", 1), ("increment", "a"), ("increment", True)])
async def test_an_operation_on_the_wrong_type_is_a_type_mismatch(operation: str, start: Json) -> None:
    value: JsonObject = {"value": 1}
    config: JsonObject = {"variable_name": "x", "operation": operation, **value}
    nodes: list[JsonObject] = [{"id": "v", "type": "variable", "config": config}]
    run = await Harness().run(graph(nodes, ["start -> v", "v -> end"], variables={"x": start}))
    assert run.result.error_type == "type_mismatch"


async def test_a_variable_never_becomes_infinite() -> None:
    config: JsonObject = {"variable_name": "x", "operation": "increment", "value": 1e308}
    nodes: list[JsonObject] = [{"id": "v", "type": "variable", "config": config}]
    run = await Harness().run(graph(nodes, ["start -> v", "v -> end"], variables={"x": 1e308}))
    assert run.result.error_type == "type_mismatch"
