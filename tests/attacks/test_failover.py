"""A failover of the database cuts connections in the middle of everything: no execution fails for it.

Durable executions must not be weaker than others: their checkpoints go through connections of their own.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from api.service.background import run_keeper, run_worker
from api.settings import Settings
from api.wiring.runtime import Runtime, open_runtime
from engine.errors import AttemptLost, Unavailable
from engine.graph import JsonObject
from engine.result import ExecutionResult
from engine.store import control
from engine.store.checkpoints import _InsistentSaver
from engine.testing.models import Say, ScriptedModel, ScriptedModels
from tests.engine.harness import graph
from tests.faults.connections import cut_connections
from tests.faults.figures import Figures, short_or_long
from tests.workflow_runner import OWNER, request

CUTS = short_or_long(60, 200)
"""Connections cut while they were open."""
CHECKPOINT_CUTS = short_or_long(5, 20)
"""Those whose last statement was one of the checkpoints."""
LOCKS = short_or_long(2, 10)
LOCK_SECONDS = 6.0
"""Longer than a connection to SQLite waits for the lock."""
WORKERS = 4
"""Of each durability."""
SECONDS = short_or_long(100, 900)

DURABILITIES = ("none", "step")
STEPS: list[JsonObject] = [
    {"id": f"step{number}", "type": "variable", "config": {"variable_name": "n", "value": number}}
    for number in range(6)
]
EDGES = ["start -> step0", *(f"step{number} -> step{number + 1}" for number in range(5)), "step5 -> ask", "ask -> end"]


def workflow(durability: str, **more: str) -> JsonObject:
    """Seven nodes, each of which `step` makes durable."""
    return graph([*STEPS, {"id": "ask", "type": "model"}], EDGES, durability=durability, **more)


@dataclass(slots=True)
class Load:
    """Executions of both durabilities, one after the other in each worker."""

    runtime: Runtime
    ended: dict[str, list[ExecutionResult]] = field(default_factory=lambda: {each: [] for each in DURABILITIES})
    refused: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)
    is_over: bool = False

    async def work(self, durability: str) -> None:
        """One execution after the other. The database may refuse one, but may not lose it."""
        source = {"kind": "graph", "graph": workflow(durability)}
        while not self.is_over:
            try:
                self.ended[durability].append(await self.runtime.engine.execute(request(source)))
            except Unavailable:
                self.refused += 1
            self.news.set()

    async def more(self, executions: int) -> None:
        """So many more of each durability have ended: the service has recovered."""
        wanted = {durability: len(ended) + executions for durability, ended in self.ended.items()}
        while any(len(self.ended[durability]) < most for durability, most in wanted.items()):
            self.news.clear()
            await self.news.wait()

    def failed(self, durability: str) -> list[str | None]:
        """Why executions did not complete."""
        return [result.error_type for result in self.ended[durability] if result.status != "completed"]


@asynccontextmanager
async def service(url: str, **settings: Any) -> AsyncIterator[Runtime]:
    """A service with all its jobs during the block; its model answers at once."""
    models = ScriptedModels(ScriptedModel(lambda asked: Say("fine")))
    async with open_runtime(Settings(database_url=url, **settings), models=models) as runtime:
        async with run_keeper(runtime), run_worker(runtime):
            yield runtime


@asynccontextmanager
async def loaded(url: str) -> AsyncIterator[Load]:
    """A service at work during the block. Afterwards everything that began has ended."""
    async with service(url) as runtime:
        load = Load(runtime)
        workers = [asyncio.create_task(load.work(each)) for each in DURABILITIES for _ in range(WORKERS)]
        try:
            async with asyncio.timeout(SECONDS):
                yield load
        finally:
            load.is_over = True
            await asyncio.gather(*workers)


@pytest.mark.postgres
@pytest.mark.timeout(SECONDS + 60)
async def test_no_execution_fails_because_connections_were_cut(migrated_postgres_url: str, figures: Figures) -> None:
    with figures("F9", cuts=CUTS, checkpoint_cuts=CHECKPOINT_CUTS) as figure:
        chance = figure.chance("cuts")
        async with loaded(migrated_postgres_url) as load:
            while figure.hits["cuts"] < CUTS or figure.hits["checkpoint cuts"] < CHECKPOINT_CUTS:
                await load.more(1)
                await asyncio.sleep(chance.uniform(0, 0.2))
                statements = await cut_connections(migrated_postgres_url)
                figure.hit("cuts", len(statements))
                figure.hit("checkpoint cuts", sum("checkpoint" in statement for statement in statements))
        figure.size("refused", load.refused)
        for durability in DURABILITIES:
            figure.size(f"executions with {durability}", len(load.ended[durability]))
            figure.none(f"failed with {durability}", load.failed(durability))


@pytest.mark.timeout(SECONDS + 60)
async def test_no_execution_fails_because_the_file_was_locked(migrated_sqlite_url: str, figures: Figures) -> None:
    with figures("F9", locks=LOCKS) as figure:
        async with loaded(migrated_sqlite_url) as load:
            for _ in range(LOCKS):
                await load.more(1)
                async with locked(migrated_sqlite_url.removeprefix("sqlite:///")):
                    await asyncio.sleep(LOCK_SECONDS)
                figure.hit("locks")
        figure.size("refused", load.refused)
        for durability in DURABILITIES:
            figure.size(f"executions with {durability}", len(load.ended[durability]))
            figure.none(f"failed with {durability}", load.failed(durability))


@asynccontextmanager
async def locked(file: str) -> AsyncIterator[None]:
    """Another process has the write lock of the file during the block."""
    connection = sqlite3.connect(file, isolation_level=None, timeout=30, check_same_thread=False)
    try:
        await asyncio.to_thread(connection.execute, "BEGIN IMMEDIATE")
        yield
    finally:
        connection.close()


@pytest.mark.parametrize("on_lost", ["fail", "retry", "resume"])
async def test_an_attempt_whose_checkpoints_cannot_be_stored_is_lost(
    on_lost: str, migrated_sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_broken = asyncio.Event()
    put = AsyncSqliteSaver.aput

    async def refuse(saver: AsyncSqliteSaver, config: Any, checkpoint: Any, metadata: Any, versions: Any) -> Any:
        """Break after the second checkpoint of the first attempt."""
        if metadata["step"] >= 1 and config["configurable"]["thread_id"].endswith(":1"):
            is_broken.set()
            raise sqlite3.OperationalError("database is locked")
        return await put(saver, config, checkpoint, metadata, versions)

    monkeypatch.setattr(AsyncSqliteSaver, "aput", refuse)
    monkeypatch.setattr(_InsistentSaver, "retry_seconds", 0.3)
    timing = {"lease_seconds": 1.0, "lease_renew_seconds": 0.3, "sweep_seconds": 0.2}
    async with service(migrated_sqlite_url, **timing) as runtime, asyncio.timeout(30):
        execution = await runtime.engine.start(
            request({"kind": "graph", "graph": workflow("step", on_lost=on_lost)}), streaming=False
        )
        with pytest.raises(AttemptLost):
            await execution.result()
        assert is_broken.is_set()
        row = await ended(runtime, execution.id)
    if on_lost == "fail":
        assert (row.status, row.attempt, (row.result or {})["error_type"]) == ("failed", 1, "engine_lost")
    else:
        assert (row.status, row.attempt) == ("completed", 2)


async def test_a_checkpoint_that_is_never_answered_is_written_again(
    migrated_sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = AsyncSqliteSaver.aput
    hung: list[object] = []

    async def hang(saver: AsyncSqliteSaver, config: Any, checkpoint: Any, metadata: Any, versions: Any) -> Any:
        """Wait for ever for the second checkpoint, as for a host that is gone."""
        if metadata["step"] == 0 and not hung:
            hung.append(metadata)
            await asyncio.get_running_loop().create_future()
        return await put(saver, config, checkpoint, metadata, versions)

    monkeypatch.setattr(AsyncSqliteSaver, "aput", hang)
    monkeypatch.setattr(_InsistentSaver, "answer_seconds", 0.3)
    async with service(migrated_sqlite_url) as runtime, asyncio.timeout(30):
        result = await runtime.engine.execute(request({"kind": "graph", "graph": workflow("step")}))
    assert (len(hung), result.status) == (1, "completed")


async def ended(runtime: Runtime, execution_id: str) -> control.ControlRow:
    """The control row, once the execution has ended."""
    while True:
        async with runtime.database.read() as connection:
            row = await control.get(connection, execution_id, OWNER)
        assert row is not None
        if row.status.is_terminal:
            return row
        await asyncio.sleep(0.05)
