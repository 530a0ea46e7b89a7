"""The same executions make the same books, embedded or through the Collector, whatever goes wrong on the way."""

import asyncio
from random import Random

import pytest

from telemetry.store.tables import dead_letter, outbox
from tests.both_modes import BothModes, both_modes, collector_mode, count, rows_of_books
from tests.misbehaving_collector import always, by_chance

EXECUTIONS = 220
AT_ONCE = 16


async def tell_all(modes: BothModes, executions: int = EXECUTIONS) -> None:
    """Run many executions at a time."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with slots:
            await modes.tell(number)

    await asyncio.gather(*(one(number) for number in range(executions)))


async def assert_equal(modes: BothModes, executions: int = EXECUTIONS) -> None:
    """Assert that no record is lost, duplicated, left over or different."""
    expected, found = await rows_of_books(modes.embedded_database), await rows_of_books(modes.collector.database)
    assert len(expected["executions"]) == len(expected["webhook_deliveries"]) == executions
    for table, rows in expected.items():
        assert found[table] == rows, table
    assert await count(modes.collector.database, outbox) == 0
    assert await count(modes.collector.database, dead_letter) == 0


async def test_a_collector_that_works_makes_the_same_books(migrated_url: str, other_sqlite_url: str) -> None:
    async with collector_mode(migrated_url) as way, both_modes(other_sqlite_url, way) as modes:
        await tell_all(modes, 40)
        await way.drained()
        await assert_equal(modes, 40)
    assert (way.misbehaving_collector.dropped, set(way.misbehaving_collector.answered)) == (0, {200})
    assert way.health.outbox.served_locally.total() == 0
    assert way.health.outbox.confirmed["records"] == way.health.signals == way.health.outbox.shipped


@pytest.mark.slow
async def test_a_collector_that_does_everything_wrong_makes_the_same_books(
    migrated_url: str, other_sqlite_url: str
) -> None:
    mood = by_chance(Random(3), takes=60, rejects=10, refuses=4, fails=12, redirects=4, dawdles=5, swallows=5)
    way_there = collector_mode(migrated_url, mood, unlucky=0.05, repeats=0.3, confirm_seconds=2.0)
    async with way_there as way, both_modes(other_sqlite_url, way) as modes:
        await tell_all(modes)
        await way.drained()
        await assert_equal(modes)
    asked, answered = way.misbehaving_collector.asked, way.misbehaving_collector.answered
    assert {"rejects", "fails", "swallows", "takes"} <= set(asked)
    assert (set(answered), way.misbehaving_collector.dropped) == ({200, 503}, 0)
    assert way.health.outbox.served_locally.total() > 0


async def test_the_books_are_complete_if_the_collector_swallows_everything(
    migrated_url: str, other_sqlite_url: str
) -> None:
    async with collector_mode(migrated_url, always("swallows"), confirm_seconds=0.3) as way:
        async with both_modes(other_sqlite_url, way) as modes:
            await tell_all(modes, 20)
            await way.drained()
            await assert_equal(modes, 20)
    assert way.health.outbox.confirmed.total() == 0
    assert way.health.outbox.is_reachable


async def test_the_books_are_complete_if_the_collector_refuses_everything(
    migrated_sqlite_url: str, other_sqlite_url: str
) -> None:
    async with collector_mode(migrated_sqlite_url, always("refuses"), confirm_seconds=0.3) as way:
        async with both_modes(other_sqlite_url, way) as modes:
            await tell_all(modes, 3)
            await way.drained()
            await assert_equal(modes, 3)
    assert way.health.outbox.shipped == 0
    assert not way.health.outbox.is_reachable
