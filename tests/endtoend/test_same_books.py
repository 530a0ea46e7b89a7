"""Embedded, or through a real Collector: the same executions make the same books, and Jaeger has every trace."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from engine.tracing import semconv
from tests.collector.observation import Shown, in_jaeger, tags
from tests.conftest import StartCollector
from tests.endtoend.comparable_books import read_books
from tests.endtoend.load import GOLDEN, SOURCES, golden, is_streamed, run_all, source_of, story_of
from tests.endtoend.wiring import serving, wired
from tests.services.jaeger.server import Jaeger

pytestmark = [pytest.mark.collector, pytest.mark.jaeger, pytest.mark.slow]

EXECUTIONS = 500
SAMPLE = 50

ROOT = "invoke_workflow"
CHAT = "chat"
NODE = "execute_node"
TOOL = "execute_tool"
RETRIEVAL = "retrieval"
SPANS_OF: dict[str, Callable[[str], bool]] = {
    ROOT: lambda name: name.startswith("invoke_workflow "),
    NODE: lambda name: name.startswith("execute_node "),
    CHAT: lambda name: name.startswith("chat "),
    TOOL: lambda name: name.startswith("execute_tool "),
    RETRIEVAL: lambda name: name.startswith("retrieval "),
}
KEYED_ON: list[tuple[str, str, str, str | None]] = [
    # tool, span, attribute, value if it is always the same
    ("Jaeger", ROOT, semconv.OPERATION, "invoke_workflow"),
    ("Jaeger", CHAT, semconv.OPERATION, "chat"),
    ("Jaeger", TOOL, semconv.OPERATION, "execute_tool"),
    ("Jaeger", RETRIEVAL, semconv.OPERATION, "retrieval"),
    ("Jaeger", CHAT, semconv.PROVIDER, "scripted"),
    ("Jaeger", CHAT, semconv.REQUEST_MODEL, "scripted-1"),
    ("Jaeger", CHAT, semconv.RESPONSE_MODEL, "scripted-1"),
    ("Jaeger", CHAT, semconv.CALL_TOKENS["input_tokens"], "12"),
    ("Jaeger", CHAT, semconv.CALL_TOKENS["output_tokens"], "7"),
    ("Jaeger", CHAT, semconv.FINISH_REASONS, None),
    ("Jaeger", TOOL, semconv.TOOL_NAME, "calculate"),
    ("Jaeger", TOOL, semconv.TOOL_CALL_ID, "call-1"),
    ("Jaeger", RETRIEVAL, semconv.DATA_SOURCE_ID, "files"),
    ("Langfuse", ROOT, semconv.OPENINFERENCE_KIND, "CHAIN"),
    ("Langfuse", CHAT, semconv.OPERATION, "chat"),
    ("Langfuse", CHAT, semconv.REQUEST_MODEL, "scripted-1"),
    ("Langfuse", CHAT, semconv.CALL_TOKENS["input_tokens"], "12"),
    ("Langfuse", CHAT, semconv.CALL_TOKENS["output_tokens"], "7"),
    ("Langfuse", CHAT, semconv.GENAI_COST, None),
    ("Langfuse", TOOL, semconv.TOOL_NAME, "calculate"),
    ("Phoenix", ROOT, semconv.OPENINFERENCE_KIND, "CHAIN"),
    ("Phoenix", CHAT, semconv.OPERATION, "chat"),
    ("Phoenix", CHAT, semconv.PROVIDER, "scripted"),
    ("Phoenix", CHAT, semconv.REQUEST_MODEL, "scripted-1"),
    ("Phoenix", TOOL, semconv.TOOL_NAME, "calculate"),
    ("Phoenix", NODE, semconv.OPENINFERENCE_KIND, "CHAIN"),
    ("Phoenix", RETRIEVAL, semconv.OPENINFERENCE_KIND, "RETRIEVER"),
    ("Phoenix", TOOL, semconv.OPENINFERENCE_KIND, "TOOL"),
    ("MLflow", TOOL, semconv.MLFLOW_SPAN_TYPE, "TOOL"),
    ("MLflow", CHAT, semconv.MLFLOW_COST, None),
    ("people", ROOT, semconv.COST_USD, None),
]
"""What other tools tell spans apart by and read from them, and where it must stand in a trace that completed."""
ONLY_ON_CALLS = (semconv.CALL_TOKENS["input_tokens"], semconv.CALL_TOKENS["output_tokens"], semconv.GENAI_COST)
"""These tools sum them over all spans."""


async def test_both_modes_make_the_same_books_and_jaeger_has_every_trace(
    migrated_url: str, other_sqlite_url: str, documents: Path, start_collector: StartCollector, jaeger: Jaeger
) -> None:
    async with serving(other_sqlite_url, documents, None) as runner:
        await run_all(runner, range(EXECUTIONS))
        expected = await read_books(runner.runtime.database)

    to_jaeger = {"JAEGER_OTLP_ENDPOINT": jaeger.otlp_http}
    async with wired(migrated_url, documents, start_collector, environment=to_jaeger) as service:
        results = await run_all(service.runner, range(EXECUTIONS))
        await service.drained()
        found = await read_books(service.database)
        assert service.outbox.served_locally.total() == 0, "the Collector has brought back every signal"
        assert set(service.outbox.requests) == {200}

    assert Counter(result.status for result in results.values()) == {"completed": 420, "failed": 60, "cancelled": 20}
    assert len(found.records) == EXECUTIONS
    for number in range(EXECUTIONS):
        assert found.records[number] == expected.records[number]
        assert found.spans[number] == expected.spans[number]
        assert found.webhooks[number] == expected.webhooks[number]
    assert set(found.deliveries.values()) == {1}
    assert found.rollups == expected.rollups

    sizes = {number: len(spans) for number, spans in found.spans.items()}
    shown = {number: await in_jaeger(jaeger, found.traces[number], sizes[number]) for number in range(SAMPLE)}
    assert {story_of(number) for number in shown} == {"completed", "tool fails", "refused", "cut off", "cancelled"}
    assert {number: drawing(spans) for number, spans in shown.items()} == {number: golden(number) for number in shown}
    assert problems([spans for number, spans in shown.items() if story_of(number) == "completed"]) == []
    assert await counted(jaeger, list(found.traces.values())) == sum(sizes.values())


def test_every_source_has_every_end() -> None:
    ends = {(SOURCES.index(source_of(number)), is_streamed(number), story_of(number)) for number in range(EXECUTIONS)}
    assert len(ends) == len(SOURCES) * 2 * len(GOLDEN)


def drawing(spans: list[Shown]) -> str:
    """The tree of a trace as text: names, and error types."""
    by_parent: dict[str | None, list[Shown]] = {}
    for span in sorted(spans, key=_began):
        by_parent.setdefault(_parent(span), []).append(span)

    def lines(parent: str | None, depth: int) -> Iterator[str]:
        for span in by_parent.get(parent, []):
            error = tags(span).get(semconv.ERROR_TYPE)
            yield "  " * depth + "  ".join([str(span["operationName"]), *([error] if error else [])])
            yield from lines(str(span["spanID"]), depth + 1)

    return "\n" + "\n".join(lines(None, 0)) + "\n"


def problems(traces: list[list[Shown]]) -> list[str]:
    """What other tools look for and do not find, and what they would count twice."""
    missing = []
    for tool, kind, key, value in KEYED_ON:
        spans = [span for trace in traces for span in trace if SPANS_OF[kind](str(span["operationName"]))]
        assert spans
        found = {tags(span).get(key) for span in spans}
        if None in found or (value is not None and found != {value}):
            missing.append(f"{tool} needs {key} on {kind}, there is {found}")
    for span in itertools.chain.from_iterable(traces):
        if not SPANS_OF[CHAT](str(span["operationName"])):
            missing += [f"{key} is on {span['operationName']}" for key in ONLY_ON_CALLS if key in tags(span)]
    return missing


async def counted(jaeger: Jaeger, trace_ids: list[str]) -> int:
    """How many spans Jaeger has of these traces."""
    total = 0
    async with httpx2.AsyncClient(base_url=jaeger.query_url, trust_env=False) as client:
        for trace_id in trace_ids:
            answer = await client.get(f"/api/traces/{trace_id}")
            total += len(answer.json()["data"][0]["spans"]) if answer.status_code == 200 else 0
            await asyncio.sleep(0)
    return total


def _began(span: Shown) -> int:
    return int(str(span["startTime"]))


def _parent(span: Shown) -> str | None:
    references = span["references"]
    assert isinstance(references, list)
    return next((str(each["spanID"]) for each in references if each["refType"] == "CHILD_OF"), None)
