"""A real Prometheus scrapes a service that ran a few hundred executions: every dashboard answers, the books agree."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice
from pathlib import Path

import pytest

from api.service.server import listen, make_server
from dashboards.boards import BOARDS, filled, panel_queries
from dashboards.cost_board import COSTS
from dashboards.generate import write_rules
from dashboards.options import Options
from dashboards.overview_board import OVERVIEW
from dashboards.panels import Origin, Shape
from engine.database.database import Database
from engine.graph import JsonObject
from engine.resources import ModelRequest
from engine.result import ExecutionResult, Status
from engine.testing.models import Call, Fail, Hold, Say, Step
from telemetry.metrics.cached_collectors import ScoreCollector
from telemetry.reads.cost import CostReport, cost
from telemetry.reads.cost_query import CostFilter
from telemetry.reads.scores import GivenScore
from telemetry.reconcile.findings import ReconcileReport
from telemetry.reconcile.job import ReconcileJob, reconcile
from tests.dashboards.prometheus_queries import QueriedPrometheus
from tests.engine.harness import graph
from tests.services.process import free_port
from tests.services.prometheus.server import JsonDocument, Prometheus
from tests.workflow_runner import OWNER, WorkflowRunner, request, streamed, workflow_runner

pytestmark = [pytest.mark.prometheus, pytest.mark.slow]

EXECUTIONS = 80
SCRAPE = "500ms"
SCALE = 1 / 120
"""An hour of the rules is half a minute here."""
SETTLE = timedelta(seconds=1)
WINDOW = "1m"

AGENT: JsonObject = graph(
    [
        {"id": "look", "type": "retrieval", "config": {"retriever": "files", "options": {"path": "."}}},
        {"id": "answer", "type": "model", "stream": True, "retry": {"max_attempts": 1}},
        {"id": "tools", "type": "tools", "config": {"allowed_tools": ["calculate"]}},
    ],
    [
        "start -> look",
        "look -found-> answer",
        "look -empty-> answer",
        "answer -tool_calls-> tools",
        "tools -> answer",
        "answer -final-> end",
    ],
)
SOURCES: tuple[JsonObject, ...] = (
    {"kind": "template", "template": "agent"},
    {"kind": "definition", "definition": "helper"},
    {"kind": "graph", "graph": AGENT},
    {"kind": "chat"},
)
Start = Callable[[JsonDocument], Prometheus]


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """What is searched."""
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "tower.md").write_text("# The tower\n\nThe clock hangs in the north tower.\n")
    return folder


async def test_every_dashboard_answers_and_prometheus_agrees_with_the_books(
    migrated_sqlite_url: str, documents: Path, start_prometheus: Start, tmp_path: Path
) -> None:
    port = free_port()
    async with serving(migrated_sqlite_url, documents, port) as runner:
        asked = QueriedPrometheus(await asyncio.to_thread(start_prometheus, configuration(port, tmp_path)))
        await asked.until("count(spanloom_journal_writable)", 1)
        since = await quiet()
        await ReconcileJob(runner.runtime.database, None).run_if_due()
        results = await run_all(runner)
        results += await run_all(runner)
        await asked.until("sum(spanloom_executions_total)", len(results))
        until = await quiet()

        queries = [query for query in panel_queries(window=WINDOW) if query.origin is not Origin.COLLECTOR]
        queries = [query for query in queries if "offset" not in query.expr]  # there is no time before
        assert len(queries) > 50
        assert await asked.unanswered(queries) == []
        await has_the_numbers_of_the_books(asked, runner.runtime.database)
        await leads_to_failed_executions(asked, results, since)
        report = await compared(runner.runtime.database, asked.prometheus, since, until)
        assert [outcome for outcome in report.counters if not outcome.is_compared] == []
        assert report.differences == []

    async with serving(migrated_sqlite_url, documents, port) as runner:
        await asked.until("count(changes(process_start_time_seconds[1m]) > 0)", 1)
        await run_all(runner)
        await asked.until("sum(spanloom_executions_total)", len(results) + EXECUTIONS)
        report = await compared(runner.runtime.database, asked.prometheus, since, await quiet())
    exact, counted_in_memory = report.counters[:2], report.counters[2:]
    assert all(outcome.is_compared for outcome in exact)
    assert not any(outcome.is_compared for outcome in counted_in_memory)
    assert {str(outcome.note).partition(" ")[2] for outcome in counted_in_memory} <= {
        "was restarted within the window",
        "counter was reset within the window",
    }
    assert report.differences == []


async def test_nothing_is_zero_where_nothing_happened(start_prometheus: Start) -> None:
    """Counts and sums of money are 0 without any series, and rates of nothing are unknown."""
    asked = QueriedPrometheus(await asyncio.to_thread(start_prometheus, {}))
    numbers = {
        panel.title: await asked.values(filled(panel.queries[0].expr))
        for board in (OVERVIEW, COSTS)
        for panel in board.panels()
        if panel.shape is Shape.NUMBER
    }
    unknown = {title for title, found in numbers.items() if not found}
    assert unknown == {"Failure rate", "Budget left", "Duration, 95 %", "Cost per execution"}
    assert {tuple(found) for title, found in numbers.items() if title not in unknown} == {(0.0,)}
    lines = [panel for board in BOARDS for panel in board.panels() if panel.axis and panel.shape is Shape.LINES]
    counted = [query for panel in lines for query in panel.queries if "or on()" in query.expr]
    assert len(counted) > 15
    for query in counted:
        assert await asked.values(filled(query.expr)) == [0.0], query.expr


@asynccontextmanager
async def serving(url: str, documents: Path, port: int) -> AsyncIterator[WorkflowRunner]:
    """A service on a port, whose executions ask scripted models."""
    async with workflow_runner(url, documents, keep_signals=False) as runner:
        await runner.store_definition("helper", AGENT)
        await runner.store_template("agent", AGENT)
        with listen("127.0.0.1", port) as listener:
            async with serve_runner(runner, listener):
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(ScoreCollector, "seconds", 0.5)
                    yield runner


@asynccontextmanager
async def serve_runner(runner: WorkflowRunner, listener: socket.socket) -> AsyncIterator[None]:
    """Answer over HTTP for what runs in a workflow runner."""
    ready = asyncio.Event()
    server = make_server(runner.runtime, listener, lambda _: ready.set())
    task = asyncio.create_task(server.serve([listener]), name="service")
    await ready.wait()
    try:
        yield
    finally:
        server.should_exit = True
        await task


def configuration(port: int, folder: Path) -> JsonDocument:
    """Scrape the service often, with the shipped rules in a hurry."""
    rules = write_rules(folder / "rules", Options(scale=SCALE))
    return {
        "global": {"scrape_interval": SCRAPE, "evaluation_interval": SCRAPE},
        "rule_files": [str(file) for file in rules],
        "scrape_configs": [{"job_name": "spanloom", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}],
    }


async def quiet() -> datetime:
    """A moment around which nothing ends: what ends near an end of the window may count on either side."""
    await asyncio.sleep(1.5 * SETTLE.total_seconds())
    now = datetime.now(UTC)
    await asyncio.sleep(1.5 * SETTLE.total_seconds())
    return now


async def run_all(runner: WorkflowRunner) -> list[ExecutionResult]:
    """Every source in turn, streamed and not; one in ten fails, a few are cancelled."""
    engine = runner.engine(answer)
    results: list[ExecutionResult] = []
    for number, source in enumerate(islice(cycle(SOURCES), EXECUTIONS - 4)):
        wanted = request(source, f"{number}")
        results.append(await (streamed(engine, wanted) if number % 2 else engine.execute(wanted)))
    for source in SOURCES:
        holding = runner.engine([Hold()])
        execution = await holding.start(request(source), streaming=False)
        await holding.model.entered.wait()
        execution.cancel("enough")
        results.append(await execution.result())
    assert {result.status for result in results} == {Status.COMPLETED, Status.FAILED, Status.CANCELLED}
    await runner.runtime.scoring.give(results[0].execution_id, OWNER, GivenScore("rating", "human", 4.0))
    return results


def answer(asked: ModelRequest) -> Step:
    """A tool call first where there are tools, now and then an error, else an echo."""
    last = asked.messages[-1]
    if asked.tools and last["role"] == "user":
        text = str(last["content"])
        return Call("calculate", {"expression": "6 *" if text.endswith("3") else "6 * 7"})
    if any(str(message["content"]).endswith("7") for message in asked.messages if message["role"] == "user"):
        return Fail("auth")
    return Say(f"echo {last['content']}")


async def has_the_numbers_of_the_books(asked: QueriedPrometheus, database: Database) -> None:
    """Failure rate and cost per template, exactly as SQL has them."""
    report = await _cost(database)
    assert len(report.rows) == len(SOURCES)
    for row in report.rows:
        template = row.group[0] or row.group[1]
        found = 'sum(%s{template="%s"%s})'
        assert await asked.values(found % ("spanloom_cost_nano_usd_total", template, "")) == [row.sums.priced_nano_usd]
        for status in ("completed", "failed", "cancelled"):
            counted = await asked.values(found % ("spanloom_executions_total", template, f',status="{status}"'))
            assert counted == [getattr(row.sums, f"executions_{status}")]


async def _cost(database: Database) -> CostReport:
    async with database.read() as connection:
        return await cost(connection, CostFilter(), ["template", "workflow"])


async def leads_to_failed_executions(asked: QueriedPrometheus, results: list[ExecutionResult], since: datetime) -> None:
    """Exemplars of the failure panel are traces of failed executions."""
    [panel] = [
        query for query in panel_queries(window=WINDOW) if query.panel == "Failed executions, with their traces"
        and query.board == "overview"
    ]  # fmt: skip
    start, end = since.timestamp(), datetime.now(UTC).timestamp()
    series = await asyncio.to_thread(asked.prometheus.exemplars, panel.expr, start=start, end=end)
    traces = {exemplar["labels"]["trace_id"] for one in series for exemplar in one["exemplars"]}
    failed = {result.metadata.trace_id for result in results if result.status is Status.FAILED}
    assert traces
    assert traces <= failed


async def compared(database: Database, prometheus: Prometheus, since: datetime, until: datetime) -> ReconcileReport:
    """The books and Prometheus between two quiet moments."""
    return await reconcile(database, since, until, prometheus_url=prometheus.url, settle=SETTLE)
