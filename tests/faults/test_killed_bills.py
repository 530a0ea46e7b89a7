"""I7 where servers are killed: what told its usage is booked as billed; what did not is counted, and bounded."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import count, takewhile
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import select

from engine.database.database import Database
from engine.usage import TOKEN_KINDS
from telemetry.reads.executions import ExecutionRecord, get_execution
from telemetry.store.tables import executions
from tests.faults.billing_provider import KEY, MODELS, Billed, BillingProvider, billing_provider
from tests.faults.clients import Clients, Told
from tests.faults.figures import Figure, Figures, short_or_long
from tests.faults.invariants import Evidence, violations
from tests.faults.test_bills import compared, expected, fits, wish
from tests.faults.world import FAST, World, world
from tests.workflow_runner import OWNER

KILLS = short_or_long(3, 40)
EVERY_SECONDS = short_or_long(4.0, 15.0)
AT_ONCE = 16
ADDRESSES = {"openai": "OPENAI_BASE_URL", "anthropic": "ANTHROPIC_BASE_URL", "google": "GOOGLE_GEMINI_BASE_URL"}
PIECE_SECONDS = 0.03
"""How long the provider takes for each piece of a stream, so that kills hit calls."""
CALL_SECONDS = 15.0
"""When a call is given up that the provider does not answer; late enough that none is before it is sent."""


@pytest.mark.slow
@pytest.mark.timeout(short_or_long(240, 3_000))
async def test_a_bill_is_booked_or_bounded_whenever_the_server_is_killed(
    migrated_url: str, tmp_path: Path, figures: Figures
) -> None:
    with figures("I7", kills=KILLS, unfinished=KILLS // 2) as figure:
        async with billing_provider(str(figure.seed), PIECE_SECONDS) as provider:
            addresses = {ADDRESSES[name]: url for name, url in provider.addresses.items()}
            keys = dict.fromkeys((f"{name.upper()}_API_KEY" for name in MODELS), KEY)
            async with world(migrated_url, tmp_path, figure, settings={**FAST, **addresses, **keys}) as around:
                await run_and_kill(around, provider, figure)
                await around.settled()
                check(figure, provider.ledger, await records(around.database))
                seen = Evidence(around.callers.ledger, None, around.hooks.ledger, around.paths)
                figure.none("violations", await violations(around.database, seen))


async def run_and_kill(around: World, provider: BillingProvider, figure: Figure) -> None:
    """Run executions without a pause, and kill the server again and again, in the middle of a call."""
    chance, moments, numbers = figure.chance("executions"), figure.chance("kills"), count()
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(
                ask(around.callers, takewhile(lambda _: not stop.is_set(), numbers), chance), name="client"
            )
        for _ in range(KILLS):
            await asyncio.sleep(moments.uniform(0.5, 1.5) * EVERY_SECONDS)
            await provider.is_asked.wait()
            await around.server.kill()
            figure.hit("kills")
            await around.server.start()
        await asyncio.sleep(EVERY_SECONDS)
        stop.set()


async def ask(callers: Clients, numbers: Iterator[int], chance: Random) -> None:
    """Start one execution after the other; one that finds no server is sent again."""
    for number in numbers:
        request = wish(chance, f"k{number}", CALL_SECONDS).model_dump(mode="json", exclude_unset=True)
        lost = chance.choice(["fail", "retry"])
        told = Told(number, was_unreachable=True)
        while told.was_unreachable:
            told = await callers.start(
                number=number,
                source=request["source"],
                message=request["input"]["message"],
                overrides={"on_lost": lost},
                on_disconnect="continue",
            )
            await asyncio.sleep(0.05)
        assert told.refused is None, told


async def records(database: Database) -> dict[str, ExecutionRecord]:
    """The record of each execution, by the key under which the provider bills its calls."""
    async with database.read() as connection:
        rows = (await connection.execute(select(executions.c.id, executions.c.tags))).all()
        found = {f"k{row.tags['number']}": await get_execution(connection, row.id, OWNER) for row in rows}
    assert len(found) == len(rows)
    return {key: record for key, record in found.items() if record is not None}


def check(figure: Figure, ledger: Sequence[Billed], books: dict[str, ExecutionRecord]) -> None:
    """Hold each execution against its calls in the ledger."""
    by_key: defaultdict[str, list[Billed]] = defaultdict(list)
    for call in ledger:
        by_key[call.key].append(call)
    whole = {key: found for key, found in books.items() if not found.unfinished_calls}
    cut = {key: found for key, found in books.items() if found.unfinished_calls}
    figure.hit("unfinished", sum(found.unfinished_calls for found in cut.values()))
    figure.size("calls", len(ledger))
    figure.size("calls that told their usage", sum(call.is_told for call in ledger))
    figure.size("executions", len(books))
    figure.size("executions whose calls all ended", len(whole))
    figure.none("billed keys without a record", by_key.keys() - books.keys())
    others = [
        f"{key}: {found.model_calls} calls are booked, {[call.outcome for call in by_key[key]]} billed"
        for key, found in whole.items()
        if found.model_calls != len(by_key[key])
    ]
    figure.none("executions with other calls", others)
    figure.none(
        "differences to the ledger",
        [line for key, found in whole.items() for line in compared(key, found, by_key[key])],
    )
    figure.none("bills out of bounds", [line for key, found in cut.items() for line in beyond(key, found, by_key[key])])
    figure.none("unknown bills over the upper limit", [call for call in ledger if not fits(call)])


def beyond(key: str, found: ExecutionRecord, calls: Sequence[Billed]) -> Iterator[str]:
    """What is booked of an execution with unfinished calls, and more than was billed; or billed, and over its range."""
    sums = expected(calls)
    for kind in TOKEN_KINDS:
        if (getattr(found, kind.field) or 0) > sums.tokens[kind.label]:
            yield f"{key}: more {kind.label} tokens are booked than the ledger has"
    if (found.cost_nano_usd or 0) > sums.nano_usd:
        yield f"{key}: {found.cost_nano_usd} nano-USD are booked, {sums.nano_usd} billed"
    most = found.model_calls + found.unfinished_calls
    if not found.model_calls <= len(calls) <= most:
        yield f"{key}: {found.model_calls} to {most} calls are booked, {len(calls)} billed"
    untold = sorted((call.nano_usd for call in calls if not (call.is_told or call.is_free)), reverse=True)
    billed = sums.nano_usd + sum(untold[found.unmetered_calls :])  # the range is of unfinished calls alone
    if found.cost_upper_nano_usd is None or billed > found.cost_upper_nano_usd:
        yield f"{key}: {billed} nano-USD are billed, at most {found.cost_upper_nano_usd} are booked"
