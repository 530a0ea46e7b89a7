"""Of several scores the latest counts, in whatever order they arrive."""

import itertools
from dataclasses import replace

import pytest
from sqlalchemy import select

from engine.database.database import Database
from engine.tracing import semconv
from engine.tracing.semconv import Event
from telemetry.records.scores import store_scores
from telemetry.signals.builders import make_event
from telemetry.signals.records import Attributes, BadSignal, EventRecord
from telemetry.signals.sanitize import place_all
from telemetry.store.score_tables import execution_scores


def event(value: float, at_ns: int, **changes: str) -> EventRecord:
    """A score given at that time."""
    said: Attributes = {
        semconv.EXECUTION_ID: "e-1",
        semconv.EXECUTION_ATTEMPT: 1,
        semconv.OWNER_ID: "ann",
        semconv.WORKFLOW_NAME: "answer",
        semconv.WORKFLOW_SOURCE: "graph",
        semconv.EVALUATION_NAME: "rating",
        semconv.EVALUATION_SCORE_VALUE: value,
        semconv.SCORE_SOURCE: "human",
        semconv.EVENT_ID: f"event-{value}",
        semconv.EVENT_SEQ: 0,
    }
    name = Event.EVALUATION_RESULT.value
    return make_event(name=name, at_ns=at_ns, trace_id=None, span_id=None, placed=place_all({**said, **changes}))


async def stored(database: Database) -> list[float]:
    async with database.read() as connection:
        return list((await connection.execute(select(execution_scores.c.value))).scalars())


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_the_latest_counts_whatever_arrives_last(migrated_sqlite_url: str, order: tuple[int, ...]) -> None:
    given = [event(1.0, 1_000_000), event(2.0, 2_000_000), event(3.0, 2_000_000)]
    async with Database(migrated_sqlite_url) as database:
        for each in order:
            async with database.begin() as connection:
                await store_scores(connection, [given[each]])
        assert await stored(database) == [3.0]


async def test_scores_of_one_batch_are_one_row(database: Database) -> None:
    async with database.begin() as connection:
        await store_scores(connection, [event(2.0, 2_000_000), event(1.0, 1_000_000)])
    assert await stored(database) == [2.0]


async def test_a_score_without_a_source_is_bad(database: Database) -> None:
    bad = event(1.0, 1_000_000)
    attributes = {key: value for key, value in bad.attributes.items() if key != semconv.SCORE_SOURCE}
    async with database.begin() as connection:
        with pytest.raises(BadSignal):
            await store_scores(connection, [replace(bad, attributes=attributes)])
