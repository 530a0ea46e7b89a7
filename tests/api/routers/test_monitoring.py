"""/healthz, /readyz, /metrics, and what a database in trouble does to the service."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg  # type: ignore[import-untyped]  # asyncpg ships no types
import pytest

from dashboards.alerts import groups
from dashboards.options import Options
from engine.errors import Unavailable
from tests.api.harness import UNKNOWN_ID, Service, running


async def test_health_touches_nothing(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(service.runtime.database, "_reader")
    assert (await service.client.get("/healthz")).json()["status"] == "ok"
    assert (await service.client.head("/healthz")).status_code == 200


async def test_a_service_that_may_run_workflows_is_ready(stored_service: Service) -> None:
    answer = await stored_service.client.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (200, "ready")
    assert (await stored_service.client.head("/readyz")).content == b""


async def test_metrics_come_in_both_formats(stored_service: Service) -> None:
    trace_id = (await stored_service.start()).json()["metadata"]["trace_id"]
    plain = await stored_service.client.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'spanloom_executions_total{status="completed",template="ask"} 1.0' in plain.text
    assert 'spanloom_executions_total{status="failed",template="rag_chat"} 0.0' in plain.text
    wanted = {"Accept": "application/openmetrics-text; version=1.0.0"}
    open_metrics = await stored_service.client.get("/metrics", headers=wanted)
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text")
    assert f'trace_id="{trace_id}"' in open_metrics.text
    assert open_metrics.text.endswith("# EOF\n")


async def test_the_runbook_has_an_anchor_for_each_alert_and_needs_no_database(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(service.runtime.database, "_reader")
    page = await service.client.get("/runbook")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    alerts = [alert.name for group in groups(Options()) for alert in group.alerts]
    assert [name for name in alerts if f'<h2 id="{name.lower()}">' not in page.text] == []


async def test_a_locked_database_is_said_and_nothing_is_accepted(service: Service, migrated_sqlite_url: str) -> None:
    other = sqlite3.connect(migrated_sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    refused = await service.start()
    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (503, "unavailable", "5")
    assert "locked by another process" in refused.json()["detail"]
    assert (await service.client.get("/v1/executions")).json()["items"] == []
    other.execute("ROLLBACK")
    other.close()
    assert (await service.client.get("/readyz")).status_code == 200
    assert (await service.start()).status_code == 200


@pytest.mark.postgres
async def test_a_read_only_database_is_said_until_it_can_be_written(migrated_postgres_url: str) -> None:
    async with running(migrated_postgres_url) as service:
        async with read_only(migrated_postgres_url):
            refused = await service.start()
            assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
            assert "read-only" in refused.json()["detail"]
            cancel = await service.client.post(f"/v1/executions/{UNKNOWN_ID}/cancel")
            assert (cancel.status_code, cancel.json()["execution_id"]) == (503, UNKNOWN_ID)
            ready = await service.client.get("/readyz")
            assert (ready.status_code, ready.json()["checks"]["journal"]["ok"]) == (503, False)
        assert (await service.client.get("/readyz")).status_code == 200
        assert (await service.start()).status_code == 200


async def test_a_read_only_file_is_said_at_the_start(migrated_sqlite_url: str) -> None:
    file = migrated_sqlite_url.removeprefix("sqlite:///")
    with pytest.raises(Unavailable, match="is read-only; make the file and its folder writable"):
        async with running(f"sqlite:///file:{file}?mode=ro&uri=true"):
            raise AssertionError("it started")


async def test_a_file_without_a_schema_gets_one(sqlite_url: str) -> None:
    async with running(sqlite_url) as service:
        assert (await service.start()).status_code == 200


@pytest.mark.postgres
async def test_a_server_without_our_schema_is_left_alone(postgres_url: str) -> None:
    with pytest.raises(Unavailable, match="run `spanloom migrate`"):
        async with running(postgres_url):
            raise AssertionError("it started")


@asynccontextmanager
async def read_only(url: str) -> AsyncIterator[None]:
    """Sessions of the database may only read meanwhile."""
    admin = await asyncpg.connect(url)
    name = await admin.fetchval("SELECT quote_ident(current_database())")
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> $1"
    for state in ("on", "off"):
        await admin.execute("SET default_transaction_read_only = off")
        await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {state}")
        await admin.execute(cut, admin.get_server_pid())
        if state == "on":
            yield
    await admin.close()
