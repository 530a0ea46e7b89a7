"""F14: one signal in a hundred holds what no table takes: the good are stored, the poison is mended or kept aside."""

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from opentelemetry.sdk._logs import LogRecordProcessor, ReadWriteLogRecord
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from sqlalchemy import select

from engine.database.database import Database
from engine.tracing import semconv
from telemetry.journal.journal import Journal
from telemetry.pipeline.pipeline import Pipeline
from telemetry.sdk.providers import build_telemetry
from telemetry.store.tables import dead_letter, executions, spans, webhook_events
from tests.both_modes import add_endpoint, consumers, count, end, tell
from tests.faults.figures import Figure, Figures, short_or_long
from tests.faults.invariants import Evidence, violations
from tests.telemetry.bookkeeper import begin

EXECUTIONS = short_or_long(500, 10_000)
AT_ONCE = 64
ONE_IN = 100

Bag = dict[str, Any]
"""The attributes of a span, as somebody may have set them."""

Spoil = Callable[[Bag], object]

MENDED: dict[str, Spoil] = {
    "NUL in a text": lambda bag: bag.update({"own.text": "a\0b"}),
    "half a surrogate pair": lambda bag: bag.update({"own.text": "a\ud800b"}),
    "NaN": lambda bag: bag.update({"own.number": math.nan}),
    "2^63": lambda bag: bag.update({"own.number": 2**63}),
    "5 MB of text": lambda bag: bag.update({"own.text": "x" * 5_000_000}),
    "an object": lambda bag: bag.update({"own.text": {"a": {"b": [1]}}}),
}
"""Stored, with the attribute named in `workflow.sanitized`."""

KEPT_ASIDE: dict[str, Spoil] = {
    "2^63 tokens": lambda bag: bag.update({semconv.CALL_TOKENS["input_tokens"]: 2**63}),
    "fewer tokens than none": lambda bag: bag.update({semconv.CALL_TOKENS["output_tokens"]: -5}),
    "a negative cost": lambda bag: bag.update({semconv.COST_NANO_USD: -1}),
    "text for a number": lambda bag: bag.update({semconv.CALL_TOKENS["input_tokens"]: "12"}),
    "no owner": lambda bag: bag.pop(semconv.OWNER_ID),
    "a status nobody knows": lambda bag: bag.update({semconv.EXECUTION_STATUS: "odd"}),
}
"""No signal any more: in `dead_letter`, with its reason. Each is met on a model call."""

KINDS = {**MENDED, **KEPT_ASIDE}


@dataclass(slots=True)
class Poisoner(SpanProcessor, LogRecordProcessor):
    """Sits before the journal and spoils one span in a hundred, with each kind in turn."""

    poisoned: Counter[str] = field(default_factory=Counter)
    seen: int = 0
    stored: set[str] = field(default_factory=set)
    """Ids of the spans that must be stored."""
    mended: set[str] = field(default_factory=set)
    """Those of them that were spoilt."""
    aside: set[str] = field(default_factory=set)
    """Ids of the spans that must be kept aside."""
    touched: set[str] = field(default_factory=set)
    """Executions that miss one of those."""

    def on_end(self, span: ReadableSpan) -> None:
        """Spoil it, if it is its turn and it has what can be spoilt."""
        assert span.context is not None
        id_, bag = f"{span.context.span_id:016x}", _bag(span)
        self.seen += 1
        kind = min(KINDS, key=lambda name: self.poisoned[name])
        is_due = self.poisoned.total() < self.seen // ONE_IN
        if not is_due or (kind in KEPT_ASIDE and bag.get(semconv.OPERATION) != "chat"):
            self.stored.add(id_)
            return
        if kind in MENDED:
            self.stored.add(id_)
            self.mended.add(id_)
        else:
            self.aside.add(id_)
            self.touched.add(bag[semconv.EXECUTION_ID])
        KINDS[kind](bag)
        self.poisoned[kind] += 1

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Events are left as they are: they decide."""

    def shutdown(self) -> None:
        """Nothing to close."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is held back."""
        return True


def _bag(span: ReadableSpan) -> Bag:
    """The attributes themselves: ours are a plain dict, see telemetry/sdk/internals.py."""
    bag: Bag = span._attributes  # type: ignore[assignment]  # the SDK promises less
    return bag


@pytest.mark.slow
@pytest.mark.usefixtures("books_left_open")
async def test_poison_costs_no_good_signal(migrated_url: str, figures: Figures) -> None:
    poisoner = Poisoner()
    with figures("F14", **dict.fromkeys(KINDS, 2)) as figure:
        async with Database(migrated_url) as database:
            await add_endpoint(database)
            await run(database, poisoner)
            for kind, times in poisoner.poisoned.items():
                figure.hit(kind, times)
            figure.size("signals", poisoner.seen + 2 * EXECUTIONS)
            await look(database, poisoner, figure)


async def run(database: Database, poisoner: Poisoner) -> None:
    """Executions of every end, many at a time."""
    telemetry, slots = build_telemetry(), asyncio.Semaphore(AT_ONCE)
    telemetry.add(poisoner, poisoner)
    async with Journal(database, Pipeline(consumers())) as journal:
        telemetry.add(journal.spans, journal.events)

        async def one(number: int) -> None:
            async with slots:
                story = begin(telemetry, workflow_name=f"w{number % 3}")
                await journal.accept(story.acceptance())
                tell(story, number)
                assert await journal.finish(story.finish(end(story, number)))

        await asyncio.gather(*map(one, range(EXECUTIONS)))
    telemetry.shutdown()


async def look(database: Database, poisoner: Poisoner, figure: Figure) -> None:
    """Everything is where it belongs."""
    async with database.read() as connection:
        rows = (await connection.execute(select(spans.c.span_id, spans.c.attributes))).all()
    found = {row.span_id: row.attributes for row in rows}
    figure.none("good spans lost", poisoner.stored - found.keys())
    figure.none("poison stored", poisoner.aside & found.keys())
    figure.none("mended and not flagged", [id_ for id_ in poisoner.mended if semconv.SANITIZED not in found[id_]])
    figure.reach(
        "kept aside", await count(database, dead_letter), at_least=len(poisoner.aside), at_most=len(poisoner.aside)
    )
    figure.reach("records", await count(database, executions), at_least=EXECUTIONS)
    figure.reach("webhook events", await count(database, webhook_events), at_least=EXECUTIONS)
    seen = await violations(database, Evidence(may_keep_aside=True))
    is_known = [one.invariant in ("I7", "I10") and one.execution_id in poisoner.touched for one in seen]
    figure.none("violations", [one for one, known in zip(seen, is_known, strict=True) if not known])
    figure.none("taken for tampering", [one for one in seen if "changed after it was stored" in one.what])
