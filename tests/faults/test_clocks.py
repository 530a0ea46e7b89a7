"""F12: workers whose clocks are hours apart share a database: no lease is lost, nothing takes less than no time."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import or_, select

from telemetry.store.tables import TIME_LEDGER_COLUMNS, executions, spans
from tests.faults.clients import Clients, clients
from tests.faults.figures import Figures, on, short_or_long
from tests.faults.provider import Latency
from tests.faults.world import LEASE_SECONDS, World, world

EXECUTIONS = short_or_long(24, 48)
"""On each worker."""

AT_ONCE = 12
HOURS = 1


@pytest.mark.slow
@on("postgres")
@pytest.mark.timeout(240)
async def test_workers_whose_clocks_differ_lose_no_lease(migrated_url: str, tmp_path: Path, figures: Figures) -> None:
    with figures("F12", hours_apart=2 * HOURS, executions_longer_than_a_lease=AT_ONCE) as figure:
        latency = Latency(figure.chance("models"), first_seconds=2.5 * LEASE_SECONDS, word_seconds=0.05)
        faults = [["--clock-hours", f"{HOURS}"], ["--clock-hours", f"-{HOURS}"]]
        async with world(migrated_url, tmp_path, figure, latency=latency, servers=2, faults=faults) as around:
            figure.hit("hours apart", 2 * HOURS)
            async with clients(around.servers[1].url, tmp_path / "clients.ledger") as others:
                await asyncio.gather(load(around.callers, 0), load(others, 1))
            await around.settled()
            ends = await around.ends()
            figure.size("executions", len(ends))
            figure.none("lost leases", [id_ for id_, end in ends.items() if end.error_type == "engine_lost"])
            figure.none("attempts that were not the first", [id_ for id_, end in ends.items() if end.attempt != 1])
            figure.none("not completed", [id_ for id_, end in ends.items() if end.status != "completed"])
            longer = [1 for end in ends.values() if end.seconds > LEASE_SECONDS]
            figure.hit("executions longer than a lease", len(longer))
            figure.none("negative times", await negative(around))
            figure.none("violations", await around.violations())


async def load(callers: Clients, worker: int) -> None:
    """Executions of every source, several at a time."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with gate:
            await callers.start(number=number)

    await asyncio.gather(*(one(2 * number + worker) for number in range(EXECUTIONS)))


async def negative(around: World) -> list[str]:
    """What took less than no time."""
    times = [executions.c.duration_ms, executions.c.time_to_first_token_ms]
    times += [executions.c[name] for name in TIME_LEDGER_COLUMNS]
    async with around.database.read() as connection:
        records = select(executions.c.id).where(or_(*(each < 0 for each in times)))
        found = [f"the record {id_}" for id_ in (await connection.execute(records)).scalars()]
        rows = await connection.execute(select(spans.c.span_id).where(spans.c.duration_us < 0))
        return [*found, *(f"the span {id_}" for id_ in rows.scalars())]
