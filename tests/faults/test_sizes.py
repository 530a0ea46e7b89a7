"""F13: what is too large is refused or cut, and said to be; every record is stored, and the process does not swell."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.sdk._logs import LogRecordProcessor, ReadWriteLogRecord
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from sqlalchemy import select

from engine.database.database import Database
from engine.graph import JsonObject
from engine.tracing import semconv
from telemetry.journal.journal import Journal
from telemetry.pipeline.pipeline import Pipeline
from telemetry.sdk.providers import build_telemetry
from telemetry.signals.sanitize import MAX_ATTRIBUTES
from telemetry.store.tables import spans
from tests.both_modes import consumers
from tests.engine.harness import graph
from tests.faults.clients import ASK, Clients, clients
from tests.faults.figures import Figure, Figures, on, short_or_long
from tests.faults.invariants import Evidence, violations
from tests.faults.provider import Answer, Asked, provider
from tests.faults.server_process import server_process
from tests.telemetry.bookkeeper import begin

TIMES = short_or_long(10, 200)
MIB = 1 << 20
MOST_GROWTH_MIB = 200

HUGE = "x" * 5_000_000
LONGEST_MESSAGE = "x" * 100_000
DEEP = "[" * 100 + "]" * 100
MANY_NODES = graph(
    [{"id": f"n{number}", "type": "variable", "config": {"variable_name": "x", "value": 1}} for number in range(2_000)],
    ["start -> n0", *(f"n{number} -> n{number + 1}" for number in range(1_999)), "n1999 -> end"],
)


SOURCE: JsonObject = {"kind": "graph", "graph": ASK}


def asking(message: str) -> JsonObject:
    """A body."""
    return {"source": SOURCE, "input": {"message": message}}


REFUSED: dict[str, tuple[str, str]] = {
    "5 MB prompts": (json.dumps(asking(HUGE)), "413 body_too_large"),
    "long messages": (json.dumps(asking(LONGEST_MESSAGE + "x")), "422 invalid_request"),
    "graphs of 2,000 nodes": (
        json.dumps({"source": {"kind": "graph", "graph": MANY_NODES}, "input": {}}),
        "422 invalid_workflow",
    ),
    "JSON 100 deep": (f'{{"source": {{"kind": "chat"}}, "input": {{"message": {DEEP}}}}}', "400 malformed_json"),
}
"""What is sent, and what it is answered with; nothing is accepted."""


@pytest.mark.slow
@on("sqlite")
async def test_what_is_too_large_is_refused_or_recorded_and_memory_stays(
    migrated_url: str, tmp_path: Path, figures: Figures
) -> None:
    def answer(asked: Asked) -> Answer:
        return Answer(text=HUGE if asked.text.endswith("at length") else "short")

    planned = {**dict.fromkeys(REFUSED, TIMES), "prompts at the limit": TIMES, "5 MB answers": TIMES}
    with figures("F13", **planned) as figure:
        async with provider(tmp_path / "provider") as models:
            models.answer = answer
            environment = models.environment(tmp_path)
            async with server_process(tmp_path, migrated_url, environment=environment) as server:
                async with clients(server.url, tmp_path / "clients") as callers:
                    await callers.start(source=SOURCE, message="warm up", streaming=False)
                    before = server.resident_mib()
                    for _ in range(TIMES):
                        await one_of_each(callers, figure)
                    figure.reach("MiB grown", server.resident_mib() - before, at_most=MOST_GROWTH_MIB)
                    async with Database(migrated_url) as database:
                        evidence = Evidence(clients=callers.ledger, provider=models.ledger)
                        figure.none("violations", await violations(database, evidence))
                    figure.reach("records", len(callers.accepted), at_least=2 * TIMES + 1)


async def one_of_each(callers: Clients, figure: Figure) -> None:
    """One request of each kind."""
    for kind, (body, expected) in REFUSED.items():
        figure.hit(kind, await refusal(callers.http, body) == expected)
    at_limit = await callers.start(source=SOURCE, message=LONGEST_MESSAGE, streaming=False)
    figure.hit("prompts at the limit", at_limit.status == "completed")
    at_length = await callers.start(source=SOURCE, message="talk at length", streaming=False)
    figure.hit("5 MB answers", at_length.status == "failed")


async def refusal(http: httpx2.AsyncClient, body: str) -> str:
    """Status and code of the answer."""
    answer = await http.post("/v1/executions", content=body, headers={"content-type": "application/json"})
    assert "x-execution-id" not in answer.headers
    return f"{answer.status_code} {answer.json()['code']}"


class Swelling(SpanProcessor, LogRecordProcessor):
    """Sits before the journal, and sets 10,000 attributes on every span."""

    def __init__(self) -> None:
        self.swollen = 0

    def on_end(self, span: ReadableSpan) -> None:
        """Set them."""
        bag: dict[str, Any] = span._attributes  # type: ignore[assignment]  # ours are a plain dict
        bag.update({f"own.{number}": "a value of some length" for number in range(10_000)})
        self.swollen += 1

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Events are left as they are."""

    def shutdown(self) -> None:
        """Nothing to close."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is held back."""
        return True


@pytest.mark.slow
async def test_spans_of_ten_thousand_attributes_are_cut_and_say_so(migrated_url: str, figures: Figures) -> None:
    swelling, telemetry = Swelling(), build_telemetry()
    with figures("F13", spans_of_10000_attributes=3 * TIMES) as figure:
        async with Database(migrated_url) as database:
            async with Journal(database, Pipeline(consumers())) as journal:
                telemetry.add(swelling, swelling)
                telemetry.add(journal.spans, journal.events)
                for _ in range(TIMES):
                    story = begin(telemetry)
                    await journal.accept(story.acceptance())
                    story.answer()
                    story.tracker.complete()
                    assert await journal.finish(story.finish())
            figure.hit("spans of 10000 attributes", swelling.swollen)
            async with database.read() as connection:
                stored = (await connection.execute(select(spans.c.attributes))).scalars().all()
            figure.reach("spans", len(stored), at_least=swelling.swollen)
            figure.none("not said to be cut", [each for each in stored if "*" not in each.get(semconv.SANITIZED, [])])
            figure.reach("most attributes", max(map(len, stored)), at_most=MAX_ATTRIBUTES + 2)
            figure.none("violations", await violations(database))
    telemetry.shutdown()
    await asyncio.sleep(0)
