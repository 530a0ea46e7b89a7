"""P6 measures OTLP over HTTP until it can be queried: our receiver, Arize Phoenix and MLflow on the same batches.

Each server is a process with its own database file and shares one core with the client. Only ours also receives the
events and clears its outbox. The client waits for the response to a batch before it sends the next.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import httpx2
from sqlalchemy import func, select

from bench.executions import EXECUTIONS, SECRET_KEY, SPANS, Exported, exporting
from bench.harness import ROOT, Effort, Goal, Measured, Report, Row, Runner, Variant, Work, compare, environment
from bench.peers import MLFLOW, PHOENIX, Peer, PeerMissing
from engine.database import migrations
from engine.database.database import Database
from telemetry.reconcile.audit import check_books
from telemetry.signals.otlp import CONTENT_TYPE
from telemetry.store.tables import executions, outbox, spans
from tests.services.cache import ServiceMissing
from tests.services.postgres import server as postgres
from tests.services.process import SPANLOOM, free_port, running

OURS: dict[Effort, int] = {"smoke": 1, "short": 10, "full": 20}
"""Batches per round; peers get one."""

_POSTGRES = "BENCH_POSTGRES"
"""The variable with the URL of the server that `measure` has started, for the worker."""

_TOKEN = "token-of-the-receiver-that-is-measured"
_WAIT_SECONDS = 300.0
_POLL_SECONDS = 0.02

Stored = Callable[[], Awaitable[int]]


@asynccontextmanager
async def _sqlite() -> AsyncIterator[Runner]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with _ours(f"sqlite:///{folder / 'ours.db'}", folder) as run:
            yield run


@asynccontextmanager
async def _postgres() -> AsyncIterator[Runner]:
    server = postgres.PostgresServer(os.environ[_POSTGRES])
    url = server.create_database()
    try:
        with tempfile.TemporaryDirectory() as name:
            async with _ours(url, Path(name)) as run:
                yield run
    finally:
        server.drop_database(url)


@asynccontextmanager
async def _ours(url: str, folder: Path) -> AsyncIterator[Runner]:
    """Run the service in its role `ingest`; the executions are accepted in the Collector mode."""
    await migrations.upgrade(url)
    async with AsyncExitStack() as stack:
        export = await stack.enter_async_context(exporting(url))
        database = await stack.enter_async_context(Database(url))
        base, process_id = stack.enter_context(_receiver(url, folder))
        headers = {"Authorization": f"Bearer {_TOKEN}", "Content-Type": CONTENT_TYPE}
        client = await stack.enter_async_context(_client(f"{base}/internal/otlp", headers))

        async def send(batch: Exported) -> None:
            await _post(client, "/v1/traces", batch.traces)
            await _post(client, "/v1/logs", batch.logs)

        yield partial(_run, export, send, partial(_in_books, database), process_id)
        assert await check_books(database) == []


@contextmanager
def _receiver(url: str, folder: Path) -> Iterator[tuple[str, int]]:
    port = free_port()
    settings = {
        "SPANLOOM_DATABASE_URL": url,
        "SPANLOOM_PIPELINE": "collector",
        "SPANLOOM_INGEST_BIND": f"127.0.0.1:{port}",
        "SPANLOOM_INGEST_TOKENS": _TOKEN,
        "SPANLOOM_SECRET_KEY": SECRET_KEY,
    }
    base = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        try:
            return httpx2.get(base, timeout=1, trust_env=False).status_code == 404
        except httpx2.TransportError:
            return False

    command = [*SPANLOOM, "serve", "--role", "ingest"]
    settings = environment() | settings | {"PYTHONPATH": str(ROOT)}
    with running(command, log=folder / "log", ready=is_ready, environment=settings) as process:
        yield base, process.pid


async def _in_books(database: Database) -> int:
    """Count the stored spans once all records are complete and the outbox is empty; 0 before that."""
    async with database.read() as connection:
        if await connection.scalar(select(func.count()).select_from(outbox)):
            return 0
        complete = (executions.c.status == "completed") & (executions.c.spans_stored == executions.c.spans_expected)
        if await connection.scalar(select(func.count()).select_from(executions).where(~complete)):
            return 0
        return int(await connection.scalar(select(func.count()).select_from(spans)) or 0)


@asynccontextmanager
async def _peer(peer: Peer) -> AsyncIterator[Runner]:
    """Run a peer. Control rows and outbox of the executions are in a separate database."""
    with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as theirs:
        url = f"sqlite:///{Path(ours) / 'control.db'}"
        await migrations.upgrade(url)
        async with AsyncExitStack() as stack:
            export = await stack.enter_async_context(exporting(url))
            base, process_id = stack.enter_context(peer.serve(Path(theirs)))
            client = await stack.enter_async_context(_client(base, {**peer.headers, "Content-Type": CONTENT_TYPE}))

            async def send(batch: Exported) -> None:
                await _post(client, "/v1/traces", batch.traces)

            async def stored() -> int:
                return peer.stored(Path(theirs))

            yield partial(_run, export, send, stored, process_id)


def _client(base: str, headers: Mapping[str, str]) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=base, headers=dict(headers), trust_env=False, timeout=_WAIT_SECONDS)


async def _post(client: httpx2.AsyncClient, path: str, body: bytes) -> None:
    answer = await client.post(path, content=body)
    assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[:500]}"


async def _run(
    export: Callable[[], Awaitable[Exported]],
    send: Callable[[Exported], Awaitable[None]],
    stored: Stored,
    process_id: int,
    number: int,
) -> Work:
    """Send `number` executions in batches and wait until all their spans are stored or the time is up."""
    before, wanted = await stored(), number * SPANS
    batches = [await export() for _ in range(number // EXECUTIONS)]
    began = time.perf_counter()
    for batch in batches:
        await send(batch)
    # The server is another process and does not signal its commits, so poll.
    there = await stored() - before
    while there < wanted and time.perf_counter() - began < _WAIT_SECONDS:
        await asyncio.sleep(_POLL_SECONDS)
        there = await stored() - before
    figures = {
        "spans/s": there / (time.perf_counter() - began),
        "lost": 1 - there / wanted,
        "MB": _resident_mb(process_id),
    }
    return Work("stored", SPANS, figures)


def _resident_mb(process_id: int) -> float:
    """Return the resident memory of a process and its children (Linux only)."""
    kilobytes, waiting = 0, [process_id]
    while waiting:
        folder = Path(f"/proc/{waiting.pop()}")
        lines = (folder / "status").read_text().splitlines()
        kilobytes += next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
        for task in (folder / "task").iterdir():
            waiting += map(int, (task / "children").read_text().split())
    return kilobytes / 1024


_MINE, _MINE_ON_POSTGRES = "ours, SQLite", "ours, PostgreSQL"
PEERS = {"Phoenix": PHOENIX, "MLflow": MLFLOW}
VARIANTS: dict[str, Variant] = {
    _MINE: _sqlite,
    _MINE_ON_POSTGRES: _postgres,
    **{name: partial(_peer, peer) for name, peer in PEERS.items()},
}
_TIMES_FASTER = {"Phoenix": 50.0, "MLflow": 10.0}


def measure(effort: Effort) -> Report:
    """Measure the spans per second until they can be queried, and the memory of the server."""
    notes = ["memory excludes PostgreSQL; only our server also receives events"]
    wanted = {_MINE: OURS[effort] * EXECUTIONS}
    if effort == "smoke":
        notes.append("peers are not measured with --smoke")
    else:
        wanted |= {name: EXECUTIONS for name in PEERS if _is_there(name, notes)}
    with ExitStack() as stack:
        try:
            os.environ[_POSTGRES] = stack.enter_context(postgres.serve()).admin_url
            wanted[_MINE_ON_POSTGRES] = OURS[effort] * EXECUTIONS
        except ServiceMissing as missing:
            notes.append(f"PostgreSQL not measured: {missing}")
        found = compare("p06_ingest", wanted, executions=wanted, effort=effort)
    rows = [_row(name, its, found[_MINE], wanted[name]) for name, its in found.items()]
    return Report("P6", "OTLP until it is committed and can be queried", rows, list(_goals(found)), notes)


def _is_there(name: str, notes: list[str]) -> bool:
    try:
        PEERS[name].install()
    except PeerMissing as missing:
        notes.append(f"{name} not measured: {missing}")
        return False
    return True


def _row(name: str, its: Measured, mine: Measured, number: int) -> Row:
    rate = its.figure("spans/s")
    return {
        "server": name,
        "spans in a round": number * SPANS,
        "spans/s": rate,
        "lost": its.figure("lost"),
        "memory MB": its.figure("MB"),
        "ours is times faster": mine.figure("spans/s") / rate,
    }


def _goals(found: Mapping[str, Measured]) -> Iterator[Goal]:
    mine = found[_MINE]
    lost = max(sample.work.figures["lost"] for sample in mine.samples)
    yield Goal("share of our spans that cannot be queried", lost, 0.0)
    for name in PEERS:
        if name in found:
            its = found[name]
            faster = mine.figure("spans/s") / its.figure("spans/s")
            yield Goal(f"times faster than {name}", faster, _TIMES_FASTER[name], at_least=True)
            yield Goal(f"memory against {name}", mine.figure("MB") / its.figure("MB"), 0.2)
