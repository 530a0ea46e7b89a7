"""F11: signals that come in any order, and several times, give the rows of the order in which they were said."""

import random

import pytest

from engine.database.database import Database
from telemetry.pipeline.pipeline import Pipeline
from telemetry.reconcile.audit import check_books
from telemetry.signals.records import Batch, Signal
from telemetry.store.tables import (
    dead_letter,
    execution_rollups,
    execution_rollups_daily,
    executions,
    spans,
    webhook_events,
)
from tests.both_modes import add_endpoint, consumers, count, end, rows_of_books, tell
from tests.faults.figures import Figures, short_or_long
from tests.telemetry.bookkeeper import Listener, decide

EXECUTIONS = short_or_long(300, 10_000)
MOST_TIMES = 4
LARGEST_BATCH = 500


@pytest.mark.slow
@pytest.mark.usefixtures("books_left_open")
async def test_signals_in_any_order_give_the_rows_of_their_own(migrated_url: str, figures: Figures) -> None:
    signals = told()
    with figures("F11", repetitions=len(signals), displaced=len(signals) // 2) as figure:
        chance = figure.chance("order")
        mixed = [signal for signal in signals for _ in range(chance.randint(1, MOST_TIMES))]
        chance.shuffle(mixed)
        figure.size("executions", EXECUTIONS)
        figure.hit("repetitions", len(mixed) - len(signals))
        figure.hit("displaced", sum(one is not other for one, other in zip(mixed, signals, strict=False)))
        async with Database(migrated_url) as database:
            await add_endpoint(database)
            await store(database, mixed, chance)
            found = await rows_of_books(database)
            await decide(database)
            figure.none("differences", await check_books(database))
            figure.reach("kept aside", await count(database, dead_letter), at_most=0)
            await clear(database)
            await store(database, signals, chance)
            expected = await rows_of_books(database)
        figure.reach("records", len(found["executions"]), at_least=EXECUTIONS)
        differing = [name for name in expected if found[name] != expected[name]]
        figure.none("tables that differ", differing)


def told() -> list[Signal]:
    """What the executions said, one after the other."""
    listener = Listener()
    for number in range(EXECUTIONS):
        level = ("full", "full", "nodes", "summary")[number % 4]
        story = listener.begin(workflow_name=f"w{number % 3}", streaming=number % 2 == 0, record_level=level)
        tell(story, number)
        end(story, number)
    return listener.signals()


async def store(database: Database, signals: list[Signal], chance: random.Random) -> None:
    """One transaction per batch, of any size."""
    pipeline, start = Pipeline(consumers()), 0
    while start < len(signals):
        batch = signals[start : start + chance.randint(1, LARGEST_BATCH)]
        async with database.begin() as connection:
            await pipeline.apply(connection, Batch.of(batch))
        start += len(batch)


async def clear(database: Database) -> None:
    """Forget everything but who wants to know."""
    async with database.begin() as connection:
        for table in (executions, spans, execution_rollups, execution_rollups_daily, webhook_events):
            await connection.execute(table.delete())
