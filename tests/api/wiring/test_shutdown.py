"""The process ends in time, whatever hangs; what it ran is not lost."""

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from threading import Event
from time import monotonic

import httpx2
import pytest
from sqlalchemy import select

from api.wiring.shutdown import EXIT_CODE, LastResort, enter_within, within
from engine.database.database import Database
from engine.store.tables import execution_control
from tests.api.harness import request

_DEAF = """
import asyncio, sys
from contextlib import suppress
from functools import partial

from api.service import server
from api.wiring.shutdown import LastResort
from api.service.logs import configure_logs
from api.settings import read_settings
from engine.testing.models import Say, ScriptedModel, ScriptedModels


class Deaf(ScriptedModel):
    async def invoke(self, request):
        print("asked", file=sys.stderr, flush=True)
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    async def stream(self, request):
        yield await self.invoke(request)


settings = read_settings()
configure_logs(settings)
server.open_runtime = partial(server.open_runtime, models=ScriptedModels(Deaf([])))
asyncio.run(server.serve(settings, frozenset({"api"}), on_signal=LastResort(6.0).arm))
"""


async def test_what_closes_in_time_is_waited_for_and_its_error_is_told() -> None:
    async def fails() -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        await within(10, "it", fails)


async def test_what_hangs_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    @asynccontextmanager
    async def deaf():  # type: ignore[no-untyped-def]  # a test's own
        yield "entered"
        await asyncio.sleep(60)

    began = monotonic()
    async with AsyncExitStack() as stack:
        assert await enter_within(stack, 0.05, "the database", deaf()) == "entered"
    assert monotonic() - began < 10
    assert "the database did not close in 0.05 s" in caplog.text


def test_the_last_resort_ends_the_process_once() -> None:
    ended: list[int] = []
    done = Event()

    def end(code: int) -> None:
        ended.append(code)
        done.set()

    last = LastResort(0.01, end)
    last.arm()
    last.arm()
    assert done.wait(10)
    assert ended == [EXIT_CODE]


async def test_a_node_that_ignores_its_cancellation_does_not_hold_the_process(
    migrated_sqlite_url: str, tmp_path: Path, books_left_open: None
) -> None:
    environment = os.environ | {
        "SPANLOOM_DATABASE_URL": migrated_sqlite_url,
        "SPANLOOM_BIND": "127.0.0.1:0",
        "SPANLOOM_DRAIN_SECONDS": "0",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _DEAF, cwd=tmp_path, env=environment, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    async with asyncio.timeout(60):
        while b"ready at " not in (line := await process.stderr.readline()):
            assert line, "it ended before it was ready"
        url = line.decode().partition("ready at ")[2].split('"')[0].strip()
        async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=60) as client:
            starting = asyncio.create_task(client.post("/v1/executions", json=request()))
            while b"asked" not in line:
                line = await process.stderr.readline()
            process.send_signal(signal.SIGTERM)
            began = monotonic()
            said = await process.stderr.read()
            assert await process.wait() == EXIT_CODE
            assert monotonic() - began < 20
            await asyncio.gather(starting, return_exceptions=True)
    assert b"is left behind" in said
    assert b"its executions are taken over by lease" in said
    async with Database(migrated_sqlite_url) as database, database.read() as connection:
        row = (await connection.execute(select(execution_control))).one()
    assert row.status == "running"
    assert row.lease_until is not None
