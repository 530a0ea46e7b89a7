"""Small workflow documents, and what they are validated against."""

from collections.abc import Mapping
from typing import Any

from engine.graph import Json, JsonObject
from engine.report import ValidationReport
from engine.resources import (
    AS_USUAL,
    CostSource,
    Effect,
    Passage,
    Price,
    Resources,
    RetrievalQuery,
    Served,
    ToolContext,
    ToolSpec,
)
from engine.testing.models import Say, ScriptedModel
from engine.usage import Usage
from engine.validation.validator import Validation, WorkflowValidator
from tests.engine.harness import scripted_resources

VALIDATOR = WorkflowValidator()


def edges(drawing: str) -> list[Json]:
    """Edges drawn as `a>b`, `a>b:label` and `a>b?condition`."""
    return [_edge(word) for word in drawing.split()]


def _edge(word: str) -> dict[str, Json]:
    source, target = word.split(">", 1)
    target, _, condition = target.partition("?")
    target, _, when = target.partition(":")
    ends: dict[str, Json] = {"source": source, "target": target}
    return {**ends, **({"when": when} if when else {}), **({"condition": condition} if condition else {})}


def document(drawing: str = "start>end", nodes: Mapping[str, Any] | None = None, **top: Json) -> JsonObject:
    """A graph by the drawing of its edges. `nodes`: type, or `(type, config)`, or whole node, by id.

    Nodes that only the drawing names are variables that set themselves; `start` and `end` are what they are called.
    """
    types: dict[str, Any] = {"start": "start", "end": "end", **(nodes or {})}
    drawn = [str(edge[side]) for edge in map(_edge, drawing.split()) for side in ("source", "target")]
    names = list(dict.fromkeys([*types, *drawn]))
    own = top.pop("edges", edges(drawing))
    return {
        "schema": "spanloom/1",
        "name": "a graph",
        "nodes": [_node(name, types.get(name, ("variable", {"variable_name": name, "value": 1}))) for name in names],
        "edges": own,
        **top,
    }


def _node(name: str, given: Any) -> JsonObject:
    if isinstance(given, str):
        return {"id": name, "type": given}
    if isinstance(given, tuple):
        return {"id": name, "type": given[0], "config": given[1]}
    return {"id": name, **given}


def node(kind: str, config: JsonObject | None = None, **fields: Json) -> JsonObject:
    """A node without its id."""
    return {"type": kind, "config": config or {}, **fields}


def model(**config: Json) -> tuple[str, JsonObject]:
    """A model node."""
    return "model", config


def condition(text: str) -> tuple[str, JsonObject]:
    """A conditional node with one condition."""
    return "conditional", {"condition": text}


class Sums:
    """A tool."""

    spec = ToolSpec(name="sum", description="Adds.", parameters={"type": "object"})
    effect: Effect = "read"

    async def call(self, arguments: JsonObject, context: ToolContext) -> Json:
        return len(arguments)


class Shelf:
    """A retriever with one option."""

    options_schema: JsonObject = {
        "type": "object",
        "properties": {"path": {"type": "string"}},
        "additionalProperties": False,
    }

    async def retrieve(self, query: RetrievalQuery) -> list[Passage]:
        return []


class NoPrices:
    """No model has a price."""

    def price(self, provider: str, model: str, usage: Usage | None, at: object, served: Served = AS_USUAL) -> Price:
        return Price(None, CostSource.NONE)

    def upper_nano_usd(
        self, provider: str, model: str, input_tokens: int, output_tokens: int, served: Served = AS_USUAL
    ) -> int | None:
        return None


def resources(*, models: bool = True, prices: bool = True, checkpoints: bool = True) -> Resources:
    """What a server has: a model with a price, one tool, one retriever."""
    return scripted_resources(
        *[ScriptedModel([Say("hello")])] if models else [],
        tools=[Sums()],
        retrievers={"default": Shelf()},
        prices=None if prices else NoPrices(),
        no_checkpoints=None if checkpoints else "install something",
    )


RESOURCES = resources()


def validate(given: Json, on: Resources = RESOURCES) -> Validation:
    """Validate for an owner."""
    return VALIDATOR.validate(given, owner="local", resources=on)


def report(given: Json, on: Resources = RESOURCES) -> ValidationReport:
    """The report of a document."""
    return validate(given, on).report


def codes(given: Json, on: Resources = RESOURCES) -> set[str]:
    """The codes of the report of a document."""
    return {issue.code for issue in report(given, on).issues}
