"""What is set up wrongly, or thinned on the way to the store, costs no record."""

import asyncio
import json
import logging
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import select

from api.service.server import listen, url_of
from engine.database.database import Database
from telemetry.reads.executions import ExecutionRecord
from telemetry.store.tables import executions, outbox, webhook_events
from tests.both_modes import count
from tests.collector.observation import calls, scraped
from tests.conftest import StartCollector
from tests.dashboards.test_against_prometheus import serve_runner
from tests.endtoend.load import run_all
from tests.endtoend.wiring import eventually, wired
from tests.services.jaeger.server import Jaeger

pytestmark = [pytest.mark.collector, pytest.mark.slow]

FEW = 24
TRACE = "0af7651916cd43dd8448eb211c80319c"


async def test_a_collector_that_comes_later_gets_everything(
    migrated_url: str, documents: Path, start_collector: StartCollector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "telemetry.collector.shipper")
    async with wired(migrated_url, documents, start_collector, is_there=False) as service:
        results = await run_all(service.runner, range(FEW))
        await eventually(lambda: not service.outbox.is_reachable)
        assert "the Collector accepts no signals; they stay in the outbox until it does" in caplog.messages
        kept = await count(service.database, outbox)
        assert (await count(service.database, executions), service.outbox.shipped) == (0, 0)

        await asyncio.to_thread(service.collector.start)
        await service.drained()
        assert service.outbox.confirmed["records"] == kept
        assert "the Collector accepts signals again" in caplog.messages
        assert await count(service.database, executions) == len(results) == FEW


async def test_a_collector_with_a_wrong_token_is_told_so_and_done_without(
    migrated_sqlite_url: str, documents: Path, start_collector: StartCollector
) -> None:
    token = {"SPANLOOM_INGEST_TOKEN": "wrong"}
    async with wired(
        migrated_sqlite_url, documents, start_collector, confirm_seconds=2.0, environment=token
    ) as service:
        await run_all(service.runner, range(FEW))
        await service.drained()
        assert set(service.outbox.requests) == {401}
        assert service.outbox.confirmed.total() == 0
        assert service.outbox.served_locally.total() > 0
        assert await count(service.database, executions) == FEW


@pytest.mark.jaeger
async def test_what_the_store_does_not_keep_is_in_the_books(
    migrated_sqlite_url: str,
    documents: Path,
    start_collector: StartCollector,
    jaeger: Jaeger,
    sampled: Path,
    tmp_path: Path,
) -> None:
    """Tail sampling keeps one in ten, and the caller says that its own trace is not recorded."""
    sooner = tmp_path / "sooner.json"
    sooner.write_text(json.dumps({"processors": {"tail_sampling": {"decision_wait_after_root_received": "1s"}}}))
    sampling = {"JAEGER_OTLP_ENDPOINT": jaeger.otlp_http, "OTELCOL_SAMPLE_PERCENT": "10"}
    async with wired(migrated_sqlite_url, documents, start_collector, sampled, sooner, environment=sampling) as service:
        with listen("127.0.0.1", 0) as listener:
            async with serve_runner(service.runner, listener):
                async with httpx2.AsyncClient(base_url=url_of(listener), trust_env=False, timeout=30) as client:
                    answer = await client.post(
                        "/v1/executions",
                        json={"source": {"kind": "template", "template": "universal_chat"}, "input": {"message": "hi"}},
                        headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-00"},
                    )
        assert answer.status_code == 200, answer.text
        result = answer.json()
        others = await run_all(service.runner, range(FEW))
        await service.drained()
        record = await service.runner.record(result["execution_id"])
        assert (record.trace_id, record.status, record.seal.complete) == (TRACE, "completed", True)
        records = [await service.runner.record(one.execution_id) for one in others.values()]
        assert all(each.seal.complete for each in records)
        assert await heard_of(service.database) == {result["execution_id"], *(each.id for each in records)}
        counted = spans_of([record, *records])
        assert await scraped(service.collector, lambda text: calls(text) == counted)


async def heard_of(database: Database) -> set[str]:
    """Executions of which webhooks tell."""
    async with database.read() as connection:
        return set((await connection.execute(select(webhook_events.c.execution_id))).scalars())


def spans_of(records: list[ExecutionRecord]) -> int:
    """How many spans they announce."""
    return sum(record.spans_expected or 0 for record in records)
