"""I7: what a provider has billed is in the books, for every call that told its usage; the others are counted."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

import pytest
from sqlalchemy import func, select

from api.settings import Settings
from api.wiring.runtime import Runtime, open_runtime
from engine.events import EventType
from engine.graph import JsonObject
from engine.models.pricing import GenaiPrices
from engine.request import ExecutionRequest
from engine.usage import TOKEN_KINDS
from telemetry.reads.executions import ExecutionRecord, get_execution
from telemetry.store.tables import execution_rollups
from tests.engine.harness import graph
from tests.faults.billing_provider import (
    KEY,
    MODELS,
    OUTCOMES,
    WAITING,
    Billed,
    BillingProvider,
    billing_provider,
)
from tests.faults.figures import Figure, Figures, on, short_or_long
from tests.workflow_runner import OWNER

EXECUTIONS = short_or_long(200, 6_600)
AT_ONCE = 12
OUTPUT_TOKENS = 1_024
INPUT_TOKENS = 2_000
"""More than any call here has."""


@pytest.mark.timeout(300)
@on("sqlite")
async def test_every_call_that_told_its_usage_is_booked_as_billed(migrated_url: str, figures: Figures) -> None:
    planned = {name.replace(" ", "_"): short_or_long(8, 200) for name in OUTCOMES}
    with figures("I7", **planned) as figure:
        async with billing_provider(str(figure.seed)) as provider:
            addresses = {f"{name}_base_url": url for name, url in provider.addresses.items()}
            keys = dict.fromkeys((f"{name}_api_key" for name in MODELS), KEY)
            settings = Settings(database_url=migrated_url).model_copy(update={**addresses, **keys})
            async with open_runtime(settings) as runtime:
                ids = await run_all(runtime, provider, figure.chance("executions"))
                records = {key: await record(runtime, id_) for key, id_ in ids.items()}
                check(figure, provider.ledger, records)
                await check_rollups(figure, runtime, records.values())


async def run_all(runtime: Runtime, provider: BillingProvider, chance: Random) -> dict[str, str]:
    """Run the executions; their ids by the key under which the provider bills their calls."""
    wanted = [(f"k{number}", wish(chance, f"k{number}")) for number in range(EXECUTIONS)]
    ids: dict[str, str] = {}
    left = iter(wanted)

    async def worker() -> None:
        for key, request in left:
            ids[key] = await run(runtime, provider, key, request)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return ids


def wish(chance: Random, key: str, timeout_seconds: float | None = None) -> ExecutionRequest:
    """A workflow that asks one of the providers, some of them with a tool; a call may take so long."""
    provider = chance.choice(list(MODELS))
    ask: JsonObject = {
        "id": "ask",
        "type": "model",
        "stream": chance.random() < 0.6,
        "retry": {"max_attempts": 3, "initial_delay_seconds": 0},
        "timeout_seconds": timeout_seconds,
        "config": {"provider": provider, "model": MODELS[provider], "max_tokens": OUTPUT_TOKENS},
    }
    if provider == "openai" and chance.random() < 0.6:
        tools: JsonObject = {"id": "tools", "type": "tools", "config": {"allowed_tools": ["calculate"]}}
        document = graph([ask, tools], ["start -> ask", "ask -tool_calls-> tools", "tools -> ask", "ask -final-> end"])
    else:
        document = graph([ask], ["start -> ask", "ask -> end"])
    source = {"kind": "graph", "graph": document}
    return ExecutionRequest.model_validate({"source": source, "input": {"message": key}})


async def run(runtime: Runtime, provider: BillingProvider, key: str, request: ExecutionRequest) -> str:
    """Run one execution, and cancel it when the provider waits to be left and all it has said has arrived."""
    execution = await runtime.engine.start(request, streaming=True)

    async def cancel_when_left_without_a_word() -> None:
        await provider.waiting[key].wait()
        if not provider.is_streaming(key):
            execution.cancel("enough")

    watching = asyncio.create_task(cancel_when_left_without_a_word(), name="watching")
    async for event in execution.events():
        if event.type is EventType.TOKEN and event.data["text"] == WAITING:
            execution.cancel("enough")
    watching.cancel()
    return execution.id


async def record(runtime: Runtime, execution_id: str) -> ExecutionRecord:
    async with runtime.database.read() as connection:
        found = await get_execution(connection, execution_id, OWNER)
    assert found is not None
    return found


@dataclass(slots=True)
class Expected:
    """What the books must say of one execution."""

    tokens: Counter[str]
    nano_usd: int = 0
    priced: int = 0
    unmetered: int = 0


def expected(calls: Iterable[Billed]) -> Expected:
    """The sums of the ledger. Of an unknown bill only the reported tokens of the input count."""
    sums = Expected(Counter())
    for call in calls:
        if call.is_free:
            sums.priced += 1
        elif call.is_told:
            sums.tokens.update(call.tokens)
            sums.nano_usd += call.nano_usd
            sums.priced += 1
        else:
            sums.unmetered += 1
            if call.is_input_told:
                sums.tokens.update({name: call.tokens.get(name, 0) for name in call.tokens if name != "output"})
    return sums


def check(figure: Figure, ledger: Sequence[Billed], records: dict[str, ExecutionRecord]) -> None:
    """Hold each execution against its calls in the ledger."""
    by_key: defaultdict[str, list[Billed]] = defaultdict(list)
    for call in ledger:
        by_key[call.key].append(call)
        figure.hit(call.outcome)
    figure.size("calls", len(ledger))
    figure.none(
        "executions with other calls", [key for key, found in records.items() if found.model_calls != len(by_key[key])]
    )
    differences = [line for key, found in records.items() for line in compared(key, found, by_key[key])]
    figure.none("differences to the ledger", differences)
    told = [call for call in ledger if call.is_told]
    figure.size("calls that told their usage", len(told))
    figure.size("nano-USD of these", sum(call.nano_usd for call in told))
    figure.reach("nano-USD of waste", sum(found.waste_nano_usd for found in records.values()), at_least=1)
    figure.none("unknown bills over the upper limit", [call for call in ledger if not fits(call)])


def compared(key: str, found: ExecutionRecord, calls: Sequence[Billed]) -> list[str]:
    """The differences of one execution."""
    sums = expected(calls)
    booked: dict[str, int | None] = {kind.label: getattr(found, kind.field) for kind in TOKEN_KINDS}
    pairs: list[tuple[str, int | None, int]] = [(name, booked[name], sums.tokens[name]) for name in booked]
    pairs += [("nano-USD", found.cost_nano_usd, sums.nano_usd), ("unmetered", found.unmetered_calls, sums.unmetered)]
    outcomes = [f"{call.protocol} {call.outcome}" for call in calls]
    return [
        f"{key}: {name} {has} is {wanted} in the ledger; {outcomes}"
        for name, has, wanted in pairs
        if (has or 0) != wanted
    ]


def fits(call: Billed) -> bool:
    """Whether the bill of a call is within the limit that a budget reserves for its size."""
    provider = "gcp.gemini" if call.protocol == "google" else call.protocol
    upper = GenaiPrices().upper_nano_usd(provider, MODELS[call.protocol], 4 * INPUT_TOKENS, call.max_tokens)
    return call.is_told or call.is_free or (upper is not None and call.nano_usd <= upper)


async def check_rollups(figure: Figure, runtime: Runtime, records: Iterable[ExecutionRecord]) -> None:
    """The roll-ups are the sums of the records."""
    found = list(records)
    names = [
        "cost_nano_usd",
        "unmetered_calls",
        "failed_calls",
        "waste_nano_usd",
        *(kind.field for kind in TOKEN_KINDS),
    ]
    known = [name for name in names if name in execution_rollups.c]
    async with runtime.database.read() as connection:
        row = (await connection.execute(select(*(func.sum(execution_rollups.c[name]) for name in known)))).one()
    sums = [sum(getattr(one, name) or 0 for one in found) for name in known]
    figure.none("roll-ups that differ", [pair for pair in zip(known, row, sums, strict=True) if pair[1] != pair[2]])
