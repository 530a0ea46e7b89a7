"""Random graphs give the same run with every durability, and after the loss of the worker at any step."""

import asyncio
import re
from collections import defaultdict
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.events import ExecutionEvent
from engine.graph import Durability, Json, JsonObject
from engine.pause import Resume
from engine.resources import ModelRequest
from engine.testing.models import Fail, Say, Step
from tests.engine.runs import Attempt, Lost, Runs, losing
from tests.engine.validation.blocks import BLOCKS, Builder
from tests.engine.validation.graphs import document

UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def answer(asked: ModelRequest) -> Step:
    """A model that fails for every second message, so that both edges are taken; equal questions have equal answers."""
    return Fail("auth") if len(asked.messages) % 2 == 0 else Say("fine")


def runs_of(block: Any, durability: Durability) -> Runs:
    builder, drawing = Builder.drawn(block)
    for node in builder.nodes.values():
        if node["type"] == "loop":
            node["config"] = {"max_iterations": 2}
    limits: JsonObject = {"max_node_executions": 10_000}
    return Runs.of(document(drawing, {**builder.nodes}, durability=durability, limits=limits), answer)


def state(attempt: Attempt) -> Json:
    """Return the state with each id replaced by the order of its first appearance."""
    names: dict[str, str] = {}
    text = orjson.dumps(attempt.state).decode()
    found: Json = orjson.loads(UUID.sub(lambda match: names.setdefault(match[0], f"id{len(names)}"), text))
    return found


def told(events: list[ExecutionEvent]) -> dict[str | None, list[JsonObject]]:
    """Return the events of each node in order; branches of a fork may interleave in any way."""
    by_node: dict[str | None, list[JsonObject]] = defaultdict(list)
    for event in events:
        said = {key: value for key, value in event.document().items() if key not in ("at", "seq")}
        data = {key: value for key, value in event.data.items() if key != "duration_ms"}
        by_node[event.node_id].append({**said, "data": data})
    return dict(by_node)


def drawn(attempt: Attempt) -> list[tuple[object, ...]]:
    """Return every span with its path, sorted."""
    names = {
        span.context.span_id: (span.name, (span.attributes or {}).get("workflow.node.visit")) for span in attempt.spans
    }
    spans = []
    for span in attempt.spans:
        own = {key: value for key, value in (span.attributes or {}).items() if key.startswith("workflow.")}
        parent = names.get(span.parent.span_id) if span.parent is not None else None
        spans.append((str(parent), span.name, str(sorted(own.items()))))
    return sorted(spans)


@settings(max_examples=40)
@given(BLOCKS)
def test_a_run_is_the_same_whatever_its_durability(block: Any) -> None:
    async def compare() -> None:
        none = await runs_of(block, "none").attempt()
        for durability in ("exit", "step"):
            other = await runs_of(block, durability).attempt()
            assert state(other) == state(none)
            assert told(other.events()) == told(none.events())
            assert drawn(other) == drawn(none)
            assert other.context.node_visits == none.context.node_visits

    asyncio.run(compare())


@settings(max_examples=40)
@given(BLOCKS, st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=3))
def test_a_run_that_is_lost_anywhere_ends_in_the_same_state(block: Any, losses: list[tuple[int, bool]]) -> None:
    async def compare() -> None:
        none = await runs_of(block, "none").attempt()
        runs = runs_of(block, "step")
        for number, (write, after) in enumerate(losses, 1):
            try:
                async with losing(runs.checkpoints, write, after=after):
                    last = await runs.attempt(number, Resume(range(number - 1, 0, -1)))
            except Lost:
                last = None
        if last is None:
            last = await runs.attempt(len(losses) + 1, Resume(range(len(losses), 0, -1)))
        assert state(last) == state(none)
        assert last.context.node_visits == none.context.node_visits
        assert [each.model_dump() for each in last.context.errors] == [
            each.model_dump() for each in none.context.errors
        ]

    asyncio.run(compare())
