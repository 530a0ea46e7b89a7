"""A database that is full, gone, read-only or too new: `/readyz` says so, and no execution is accepted meanwhile."""

import asyncio
import random
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from api.wiring.readiness import Readiness
from engine.database.database import Database
from engine.graph import JsonObject
from tests.api.harness import client_of, running
from tests.faults.proxy import proxy
from tests.faults.server_process import server_process

CHAT: JsonObject = {"source": {"kind": "chat"}, "input": {"message": "hi"}}
MOST_SECONDS = 5.0
BELIEVED_SECONDS = 2.5
"""After this time no earlier answer is believed."""


async def test_a_full_disk_is_not_ready(migrated_sqlite_url: str, tmp_path: Path) -> None:
    async with server_process(tmp_path, migrated_sqlite_url) as server, client_of(server.url) as client:
        assert (await client.post("/v1/executions", json=CHAT)).status_code == 200
        with full_disk(server.pid, Path(migrated_sqlite_url.removeprefix("sqlite:///"))):
            await asyncio.sleep(BELIEVED_SECONDS)
            answer = await client.get("/readyz")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert "check the disk and its free space" in answer.json()["checks"]["journal"]["detail"]
            assert answer.json()["checks"]["database"]["ok"]
            refused = await client.post("/v1/executions", json=CHAT)
            assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.post("/v1/executions", json=CHAT)).status_code == 200


async def test_a_good_answer_counts_for_two_seconds(migrated_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.wiring.readiness.PROBE_SECONDS", 60.0)
    async with Database(migrated_url) as database:
        readiness = Readiness(database)
        writes: set[object] = set()
        for _ in range(3):
            found = await asyncio.gather(*(readiness.troubles() for _ in range(20)))
            assert all(set(troubles.values()) == {None} for troubles in found)
            writes |= await written(database)
        assert len(writes) == 1
        await readiness.close()
        monkeypatch.setattr("api.wiring.readiness.PROBE_SECONDS", 0.0)
        readiness = Readiness(database)
        for _ in range(3):
            assert set((await readiness.troubles()).values()) == {None}
            writes |= await written(database)
        assert len(writes) == 4
        await readiness.close()


async def written(database: Database) -> set[object]:
    """When the probe wrote its one row."""
    async with database.read() as connection:
        return set((await connection.execute(text("SELECT written_at FROM write_probes"))).scalars())


async def test_an_old_server_under_a_newer_schema_refuses_starts_and_says_why(migrated_url: str) -> None:
    async with running(migrated_url) as service:
        made = (await service.start()).json()["execution_id"]
        known = await set_revision(migrated_url, "9999")
        await asyncio.sleep(BELIEVED_SECONDS)
        for answer in (
            await service.start(),
            await service.start(mode="async"),
            await service.start(mode="stream"),
            await service.client.post(f"/v1/executions/{made}/retry"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert "newer schema than this program" in answer.json()["detail"]
            assert answer.headers["retry-after"] == "5"
        ready = await service.client.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["schema"]["ok"]) == (503, False)
        assert "newer schema than this program" in ready.json()["checks"]["schema"]["detail"]
        assert (await service.client.get(f"/v1/executions/{made}")).status_code == 200
        await set_revision(migrated_url, known)


@pytest.mark.postgres
@pytest.mark.parametrize("outage", ["refuses", "hangs"])
async def test_starts_during_an_outage_are_answered_soon(migrated_postgres_url: str, outage: str) -> None:
    async with proxy(migrated_postgres_url, random.Random(1)) as between:
        async with running(between.through(migrated_postgres_url)) as service:
            assert (await service.start()).status_code == 200
            if outage == "refuses":
                between.is_refusing = True
                between.cut_all()
            else:
                between.is_half_open = True
            await asyncio.sleep(BELIEVED_SECONDS)
            began = time.monotonic()
            answers = await asyncio.gather(*(service.start(mode=mode) for mode in ("wait", "async", "stream") * 3))
            assert time.monotonic() - began < MOST_SECONDS
            for answer in answers:
                assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
                assert answer.headers["retry-after"] == "5"
            began = time.monotonic()
            assert (await service.client.get("/readyz")).status_code == 503
            assert time.monotonic() - began < MOST_SECONDS
            between.is_refusing = between.is_half_open = False
            between.cut_all()
            await asyncio.sleep(BELIEVED_SECONDS)
            assert (await service.start()).status_code == 200


@contextmanager
def full_disk(pid: int, file: Path) -> Iterator[None]:
    """No file of the process may grow over the size that SQLite's log has now: each write that needs room fails."""
    size = file.with_name(f"{file.name}-wal").stat().st_size
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    yield
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


async def set_revision(url: str, revision: str) -> str:
    """Leave the database as the program of this revision would; returns the revision before."""
    async with Database(url) as database, database.begin() as connection:
        before = str((await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar_one())
        await connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
        return before
