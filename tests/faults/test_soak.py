"""F21: one fault after the other: cuts, freezes, kills, a full disk, a Collector that is away, hostile models."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count, takewhile
from pathlib import Path

import pytest

from engine.graph import JsonObject
from tests.conftest import StartCollector
from tests.endtoend.wiring import sending_to
from tests.engine.harness import graph
from tests.faults.clients import Clients, clients
from tests.faults.figures import IS_LONG, Figure, Figures, short_or_long
from tests.faults.hostile_provider import KEY, hostile_provider
from tests.faults.provider import Latency
from tests.faults.server_process import server_process
from tests.faults.soak import HOSTILE, LEASE_SECONDS, Faults, Memory, faults
from tests.faults.world import SECRET_KEY, World, world
from tests.misbehaving_collector import TOKEN
from tests.services.process import free_port

KINDS = ("cuts", "freezes", "kills", "full disks", "Collectors away", "hostile models")
EVERY_SECONDS = short_or_long(12.0, 20.0)
ROUNDS = short_or_long(1, 10)
WORKERS = 6
PAUSE_SECONDS = 0.5
"""How long a client thinks before it starts another execution."""

WARM_UP_CLIENTS = 16
WARM_UP_EXECUTIONS = short_or_long(8, 2_000)
"""How many run before the first fault: a server's caches and arenas grow for some 1,500, faults or not."""

WARM_UP_ATTACKS = short_or_long(1, 4)
"""How often every attack is made meanwhile, all at once: either server then has had each, beside its usual load."""
WARM_UP_SECONDS = 300.0
"""How long the faults have run before memory is judged: each has then hit twice."""

MOST_MIB_PER_HOUR = 5.0
SAMPLE_SECONDS = 5.0

STEPS: JsonObject = graph(
    [
        {"id": "plan", "type": "model", "stream": True},
        {
            "id": "noted",
            "type": "variable",
            "config": {"variable_name": "plan", "value": 1},
        },
        {"id": "answer", "type": "model", "stream": True},
    ],
    ["start -> plan", "plan -> noted", "noted -> answer", "answer -> end"],
)
POLICIES: tuple[JsonObject, ...] = (
    {"on_lost": "fail"},
    {"on_lost": "retry"},
    {"on_lost": "resume", "durability": "step"},
    {"on_lost": "fail", "durability": "step"},
)
EXPLAINED = {None, "engine_lost"}
"""How an execution may end here: as it should, or with its process. One that asks a hostile model may fail by it."""


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.collector
@pytest.mark.timeout(300)
async def test_a_service_that_is_hit_every_few_seconds_keeps_its_promises(
    migrated_postgres_url: str, start_collector: StartCollector, tmp_path: Path, figures: Figures
) -> None:
    bind = f"127.0.0.1:{free_port()}"
    collector = await asyncio.to_thread(lambda: start_collector(**sending_to(f"http://{bind}")))
    settings = {
        "SPANLOOM_PIPELINE": "collector",
        "SPANLOOM_INGEST_TOKENS": TOKEN,
        "SPANLOOM_SECRET_KEY": SECRET_KEY,
        "SPANLOOM_INGEST_BIND": bind,
        **collector.sender_environment,
        "SPANLOOM_LEASE_SECONDS": f"{LEASE_SECONDS}",
        "SPANLOOM_LEASE_RENEW_SECONDS": f"{LEASE_SECONDS / 3}",
        "SPANLOOM_SWEEP_SECONDS": "1",
    }
    roles = "api,worker,keeper"
    with figures("F21", **dict.fromkeys(KINDS, ROUNDS)) as figure:
        latency = Latency(figure.chance("models"), first_seconds=0.5, word_seconds=0.1)
        async with (
            hostile_provider() as hostile,
            server_process(
                tmp_path, migrated_postgres_url, roles="ingest", name="ingest", environment=settings, is_started=False
            ) as ingest,
            world(
                migrated_postgres_url,
                tmp_path,
                figure,
                latency=latency,
                servers=2,
                roles=roles,
                settings={
                    **settings,
                    "ANTHROPIC_API_KEY": KEY,
                    "ANTHROPIC_BASE_URL": hostile.url,
                },
            ) as around,
        ):
            ingest.launch()
            await begin_durably(around)
            wrong = await faults(around, ingest, collector, figure.chance("faults"))
            await warm_up(around, wrong)
            memory = Memory(around.server)
            await hit_again_and_again(around, wrong, memory, figure)
            await around.settled()
            await look(around, wrong.attacked, memory, figure)


async def begin_durably(around: World) -> None:
    """Run one execution with checkpoints, so that their tables are there."""
    told = await around.callers.start(source={"kind": "graph", "graph": STEPS}, overrides=POLICIES[2])
    answer = await around.callers.http.get(f"/v1/executions/{told.execution_id}")
    assert told.status == "completed", answer.text


async def warm_up(around: World, wrong: Faults) -> None:
    """Run what the clients will and all attacks beside it: of what Python has used once, it gives little back."""
    turns = iter(range(WARM_UP_EXECUTIONS))
    async with asyncio.TaskGroup() as group:
        for number in range(WARM_UP_CLIENTS):
            group.create_task(work(around.callers, turns, number), name="warm up")
        for _ in range(WARM_UP_ATTACKS):
            await wrong.ask(HOSTILE)
    await around.settled()


async def hit_again_and_again(around: World, wrong: Faults, memory: Memory, figure: Figure) -> None:
    """One fault after the other, while clients start executions at both servers and read them."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        group.create_task(around.callers.watch(stop, figure.chance("reads"), pause_seconds=0.5), name="reader")
        group.create_task(memory.watch(stop, SAMPLE_SECONDS), name="memory")
        async with second_door(around) as other:
            doors = (around.callers, other)
            workers = [
                group.create_task(
                    work(doors[number % 2], until(stop), number, pause_seconds=PAUSE_SECONDS), name="client"
                )
                for number in range(WORKERS)
            ]
            began = loop.time()
            for number in range(ROUNDS * len(KINDS)):
                await asyncio.sleep(began + number * EVERY_SECONDS - loop.time())
                kind = KINDS[number % len(KINDS)]
                await wrong.all[kind]()
                figure.hit(kind)
            stop.set()
            await asyncio.gather(*workers)


@asynccontextmanager
async def second_door(around: World) -> AsyncIterator[Clients]:
    """Clients of the second server, with the ledger of those of the first."""
    async with clients(around.servers[1].url, around.callers.ledger.file) as other:
        yield replace(other, ledger=around.callers.ledger, numbers=around.callers.numbers)


def until(stop: asyncio.Event) -> Iterator[int]:
    """Turns without end, until a stop is asked for."""
    return takewhile(lambda _: not stop.is_set(), count())


async def work(door: Clients, turns: Iterable[int], number: int, *, pause_seconds: float = 0.0) -> None:
    """One execution after the other: of every source, and with steps under every policy."""
    for turn in turns:
        policy = POLICIES[(turn + number) % len(POLICIES)]
        source: JsonObject | None = {"kind": "graph", "graph": STEPS} if turn % 2 else None
        await door.start(source=source, overrides=policy if source else {}, on_disconnect="continue")
        await asyncio.sleep(pause_seconds)


async def look(around: World, attacked: set[str], memory: Memory, figure: Figure) -> None:
    """Nothing is wrong in any book, and nothing ended in a way that no fault explains."""
    ends = await around.ends()
    statuses = Counter(end.error_type or end.status for end in ends.values())
    figure.size("executions", len(ends))
    for status, number in statuses.items():
        figure.size(status, number)
    figure.none(
        "ends that nothing explains",
        [
            f"{id_}: {end.status} {end.error_type} {(end.result or {}).get('error_message')}"
            for id_, end in ends.items()
            if end.error_type == "internal_error" or not (end.error_type in EXPLAINED or id_ in attacked)
        ],
    )
    figure.none("violations", await around.violations())
    if IS_LONG:
        figure.size("MiB after the warm-up", memory.mib_after(WARM_UP_SECONDS))
        figure.size("MiB at the end", memory.mib_after(memory.samples[-1][0]))
        figure.reach("MiB an hour", memory.slope_mib_per_hour(WARM_UP_SECONDS), at_most=MOST_MIB_PER_HOUR)
