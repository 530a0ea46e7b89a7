"""Embedded or through the Collector: the same executions make the same books, whatever happens on the way."""

import asyncio
from random import Random

import pytest

from telemetry.store.tables import dead_letter, outbox
from tests.both_modes import BothWays, books, both_ways, collector_way, count
from tests.misbehaving_collector import always, by_chance

EXECUTIONS = 220
AT_ONCE = 16


async def tell_all(ways: BothWays, executions: int = EXECUTIONS) -> None:
    """Many at a time."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with slots:
            await ways.tell(number)

    await asyncio.gather(*(one(number) for number in range(executions)))


async def assert_equal(ways: BothWays, executions: int = EXECUTIONS) -> None:
    """Nothing lost, nothing doubled, nothing left, nothing different."""
    expected, found = await books(ways.embedded_database), await books(ways.collector.database)
    assert len(expected["executions"]) == len(expected["webhook_deliveries"]) == executions
    for table, rows in expected.items():
        assert found[table] == rows, table
    assert await count(ways.collector.database, outbox) == 0
    assert await count(ways.collector.database, dead_letter) == 0


async def test_a_collector_that_works_makes_the_same_books(migrated_url: str, other_sqlite_url: str) -> None:
    async with collector_way(migrated_url) as way, both_ways(other_sqlite_url, way) as ways:
        await tell_all(ways, 40)
        await way.drained()
        await assert_equal(ways, 40)
    assert (way.relay.dropped, set(way.relay.answered)) == (0, {200})
    assert way.health.outbox.served_locally.total() == 0
    assert way.health.outbox.confirmed["records"] == way.health.signals == way.health.outbox.shipped


@pytest.mark.slow
async def test_a_collector_that_does_everything_wrong_makes_the_same_books(
    migrated_url: str, other_sqlite_url: str
) -> None:
    mood = by_chance(Random(3), takes=60, rejects=10, refuses=4, fails=12, redirects=4, dawdles=5, swallows=5)
    way_there = collector_way(migrated_url, mood, unlucky=0.05, repeats=0.3, confirm_seconds=2.0)
    async with way_there as way, both_ways(other_sqlite_url, way) as ways:
        await tell_all(ways)
        await way.drained()
        await assert_equal(ways)
    asked, answered = way.relay.asked, way.relay.answered
    assert {"rejects", "fails", "swallows", "takes"} <= set(asked)
    assert (set(answered), way.relay.dropped) == ({200, 503}, 0)
    assert way.health.outbox.served_locally.total() > 0


async def test_a_collector_that_swallows_everything_is_done_without(migrated_url: str, other_sqlite_url: str) -> None:
    async with collector_way(migrated_url, always("swallows"), confirm_seconds=0.3) as way:
        async with both_ways(other_sqlite_url, way) as ways:
            await tell_all(ways, 20)
            await way.drained()
            await assert_equal(ways, 20)
    assert way.health.outbox.confirmed.total() == 0
    assert way.health.outbox.is_reachable


async def test_a_collector_that_refuses_everything_is_done_without(
    migrated_sqlite_url: str, other_sqlite_url: str
) -> None:
    async with collector_way(migrated_sqlite_url, always("refuses"), confirm_seconds=0.3) as way:
        async with both_ways(other_sqlite_url, way) as ways:
            await tell_all(ways, 3)
            await way.drained()
            await assert_equal(ways, 3)
    assert way.health.outbox.shipped == 0
    assert not way.health.outbox.is_reachable
