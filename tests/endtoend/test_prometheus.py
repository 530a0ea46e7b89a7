"""Prometheus over Collector and service: it says what SQL says, every dashboard answers, exemplars lead to traces."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
import yaml

from api.service.server import listen, url_of
from dashboards.boards import panel_queries
from dashboards.generate import write_rules
from dashboards.options import Options
from engine.result import Status
from telemetry.metrics.cached_collectors import ScoreCollector
from telemetry.reads.cost import CostRow, cost
from telemetry.reads.cost_query import CostFilter
from telemetry.reads.scores import GivenScore
from telemetry.reconcile.job import ReconcileJob
from tests.conftest import StartCollector
from tests.dashboards.prometheus_queries import QueriedPrometheus
from tests.dashboards.test_against_prometheus import serve_runner
from tests.endtoend.load import run_all
from tests.endtoend.wiring import Wired, wired
from tests.services.collector.server import Collector
from tests.services.jaeger.server import Jaeger
from tests.services.prometheus.server import JsonDocument, Prometheus
from tests.workflow_runner import OWNER

pytestmark = [pytest.mark.collector, pytest.mark.prometheus, pytest.mark.jaeger, pytest.mark.slow]

SHIPPED = Path(__file__).parents[2] / "dashboards" / "prometheus.yml"
EXECUTIONS = 200
SCRAPE = "500ms"
SCALE = 1 / 120
"""An hour of the rules is half a minute here."""
WINDOW = "2m"
ROOTS = 'gen_ai_operation_name="invoke_workflow",workflow_name="%s",workflow_source="%s"'


async def test_prometheus_says_what_sql_says_and_every_dashboard_answers(
    migrated_sqlite_url: str,
    documents: Path,
    tmp_path: Path,
    start_collector: StartCollector,
    jaeger: Jaeger,
    start_prometheus: Callable[[JsonDocument], Prometheus],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ScoreCollector, "seconds", 0.5)
    begun = time.time()
    to_jaeger = {"JAEGER_OTLP_ENDPOINT": jaeger.otlp_http}
    async with wired(migrated_sqlite_url, documents, start_collector, environment=to_jaeger) as service:
        with listen("127.0.0.1", 0) as listener:
            async with serve_runner(service.runner, listener):
                scraping = configuration(url_of(listener), service.collector, tmp_path)
                asked = QueriedPrometheus(await asyncio.to_thread(start_prometheus, scraping))
                await asked.until("count(spanloom_journal_writable)", 1)
                await ReconcileJob(service.database, None).run_if_due()
                results = list((await run_all(service.runner, range(EXECUTIONS))).values())
                results += (await run_all(service.runner, range(EXECUTIONS))).values()
                await service.drained()
                await service.runner.runtime.scoring.give(results[0].execution_id, OWNER, GivenScore("r", "human", 4.0))
                await asked.until("sum(spanloom_executions_total)", len(results))
                await asked.until('sum(traces_span_metrics_calls_total{gen_ai_operation_name="invoke_workflow"})', 400)

                await says_what_sql_says(asked, service)
                failed = {str(one.metadata.trace_id) for one in results if one.status is Status.FAILED}
                await exemplars_lead_to(asked, jaeger, failed, begun)
                # Nothing ran in the window before, with which trends compare.
                queries = [query for query in panel_queries(window=WINDOW) if " offset " not in query.expr]
                assert {query.origin for query in queries} == {"service", "rules", "collector"}
                assert await asked.unanswered(queries) == []


def configuration(service: str, collector: Collector, folder: Path) -> JsonDocument:
    """The shipped configuration with our ports, often, and the shipped rules in a hurry."""
    shipped = yaml.safe_load(SHIPPED.read_text())
    targets = {
        "spanloom": service.removeprefix("http://"),
        "collector": collector.metrics_address,
        "otelcol": collector.own_metrics_address,
    }
    for job in shipped["scrape_configs"]:
        job["static_configs"] = [{"targets": [targets.pop(job["job_name"])]}]
    assert targets == {}
    rules = write_rules(folder / "rules", Options(scale=SCALE))
    return {
        "global": {"scrape_interval": SCRAPE, "evaluation_interval": SCRAPE},
        "rule_files": [str(file) for file in rules],
        "scrape_configs": shipped["scrape_configs"],
    }


async def says_what_sql_says(asked: QueriedPrometheus, service: Wired) -> None:
    """Counts and failure rate exactly, cost to the nano-dollar, per workflow."""
    for row in await sql(service):
        name, source = row.group
        sums = row.sums
        roots = ROOTS % (name, source)
        for status in ("completed", "failed", "cancelled"):
            counted = f'sum(traces_span_metrics_calls_total{{{roots},workflow_execution_status="{status}"}})'
            assert await asked.values(counted) == [getattr(sums, f"executions_{status}")], counted
        ended = f'{{{roots},workflow_execution_status=~"completed|failed"}}'
        rate = (
            f'sum(traces_span_metrics_calls_total{{{roots},workflow_execution_status="failed"}})'
            f" / sum(traces_span_metrics_calls_total{ended})"
        )
        expected = sums.executions_failed / (sums.executions_completed + sums.executions_failed)
        assert await asked.values(rate) == [expected]
        spent = f'sum(workflow_cost_usd_total{{workflow_name="{name}",workflow_source="{source}"}})'
        [usd] = await asked.values(spent)
        assert round(usd * 1e9) == sums.priced_nano_usd > 0
    total = sum(row.sums.priced_nano_usd for row in await sql(service))
    await asked.until("sum(spanloom_cost_nano_usd_total)", total)


async def sql(service: Wired) -> list[CostRow]:
    """Sums per workflow and source."""
    async with service.database.read() as connection:
        rows = (await cost(connection, CostFilter(), ["workflow", "source"])).rows
    assert len(rows) == 4
    return rows


async def exemplars_lead_to(asked: QueriedPrometheus, jaeger: Jaeger, failed: set[str], begun: float) -> None:
    """The points of the failure panel are traces of failed executions, and Jaeger has them."""
    [panel] = [
        query
        for query in panel_queries(window=WINDOW)
        if (query.board, query.panel) == ("overview", "Failed executions, with their traces")
    ]
    series = await asyncio.to_thread(asked.prometheus.exemplars, panel.expr, start=begun, end=time.time() + 1)
    traces = {exemplar["labels"]["trace_id"] for one in series for exemplar in one["exemplars"]}
    assert traces
    assert traces <= failed
    async with httpx2.AsyncClient(base_url=jaeger.query_url, trust_env=False) as client:
        for trace_id in traces:
            assert (await client.get(f"/api/traces/{trace_id}")).status_code == 200
