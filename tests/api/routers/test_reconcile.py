"""The books are compared on the command line and by the running service, which tells what it found."""

import asyncio
import json
import os
import subprocess
from datetime import UTC, datetime

import pytest
from sqlalchemy import update

from api.service.background import run_keeper
from api.service.server import serve
from api.settings import Settings
from engine.database.database import Database
from telemetry.reconcile.findings import ReconcileReport
from telemetry.reconcile.job import ReconcileJob
from telemetry.store.tables import executions
from tests.api.harness import Service
from tests.house.lock import ROOT
from tests.services.process import SPANLOOM


def spanloom(url: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command."""
    return subprocess.run(
        [*SPANLOOM, *arguments],
        cwd=ROOT,
        env=os.environ | {"SPANLOOM_DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )


async def plant(database: Database, execution_id: str) -> None:
    """Say that an execution cost more than it did."""
    async with database.begin() as connection:
        await connection.execute(update(executions).where(executions.c.id == execution_id).values(waste_nano_usd=7))


@pytest.mark.usefixtures("books_left_open")
async def test_the_command_exits_with_1_and_the_ids_where_the_books_disagree(
    service: Service, migrated_sqlite_url: str
) -> None:
    id_ = (await service.start()).json()["execution_id"]
    good = await asyncio.to_thread(spanloom, migrated_sqlite_url, "reconcile")
    assert (good.returncode, good.stdout.splitlines()[-1]) == (0, "The books agree."), good.stderr
    assert "Prometheus counters: not compared, SPANLOOM_PROMETHEUS_URL is not set" in good.stdout
    await plant(service.runtime.database, id_)
    bad = await asyncio.to_thread(spanloom, migrated_sqlite_url, "reconcile", "--json")
    assert bad.returncode == 1
    report = json.loads(bad.stdout)
    assert (report["executions"], report["differences_total"]) == (1, 1)
    cause = "the record was changed after it was stored: its spans and its result agree on another value"
    expected = {"check": "record", "subject": id_, "column": "waste_nano_usd", "found": 7, "expected": 0}
    assert report["differences"] == [expected | {"row": None, "cause": cause, "drift_nano_usd": 0}]
    told = await asyncio.to_thread(spanloom, migrated_sqlite_url, "reconcile")
    assert f"record {id_}: waste_nano_usd is 7, expected 0; {cause}" in told.stdout
    assert told.stdout.splitlines()[-1] == "The books disagree: 1 difference, $0.00."


def test_a_window_that_ends_before_it_begins_is_wrong_use(migrated_sqlite_url: str) -> None:
    done = spanloom(migrated_sqlite_url, "reconcile", "--from", "2026-05-11", "--to", "2026-05-10")
    assert (done.returncode, "--from must be before --to" in done.stderr) == (2, True)


async def test_the_service_lists_the_hourly_comparisons_newest_first(stored_service: Service) -> None:
    database = stored_service.runtime.database
    for hour in (3, 4, 5):
        at = datetime(2026, 5, 10, hour, 30, tzinfo=UTC)
        assert await ReconcileJob(database, None, clock=lambda at=at: at).run_if_due()  # type: ignore[misc]  # a default binds it
    first = await stored_service.client.get("/v1/reconcile", params={"limit": 2})
    assert [item["to"] for item in first.json()["items"]] == ["2026-05-10T05:00:00Z", "2026-05-10T04:00:00Z"]
    rest = await stored_service.client.get("/v1/reconcile", params={"limit": 2, "cursor": first.json()["next_cursor"]})
    assert [item["to"] for item in rest.json()["items"]] == ["2026-05-10T03:00:00Z"]
    assert rest.json()["next_cursor"] is None
    since = await stored_service.client.get("/v1/reconcile", params={"from": "2026-05-10T05:00:00Z"})
    assert len(since.json()["items"]) == 1
    broken = await stored_service.client.get("/v1/reconcile", params={"cursor": "x"})
    assert (broken.status_code, broken.json()["code"]) == (400, "invalid_cursor")


async def test_the_keeper_compares_the_books_as_soon_as_it_runs(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, run_if_due = asyncio.Event(), ReconcileJob.run_if_due

    async def watched(job: ReconcileJob) -> ReconcileReport | None:
        report = await run_if_due(job)
        made.set()
        return report

    monkeypatch.setattr(ReconcileJob, "run_if_due", watched)
    async with run_keeper(service.runtime), asyncio.timeout(10):
        await made.wait()
    [run] = (await service.client.get("/v1/reconcile")).json()["items"]
    assert run["differences"] == []


async def test_serving_keeps_the_books(migrated_sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = asyncio.Event()

    async def run(job: ReconcileJob) -> None:
        kept.set()

    monkeypatch.setattr(ReconcileJob, "run", run)
    settings = Settings(database_url=migrated_sqlite_url, bind="127.0.0.1:0")
    serving = asyncio.create_task(serve(settings, {"api", "keeper"}))
    async with asyncio.timeout(10):
        await kept.wait()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
