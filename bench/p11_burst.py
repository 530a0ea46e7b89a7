"""P11 makes a burst of spans at full speed and counts the losses: through the journal and through BatchSpanProcessor.

Both get the same executions from the same tracker. BatchSpanProcessor exports OTLP over HTTP to a receiver that accepts
every export and counts its spans.
"""

import asyncio
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from sqlalchemy import func, select
from uuid_utils.compat import uuid7

from bench.harness import Effort, Goal, Report, Row, Runner, Variant, Work, compare
from engine.database import migrations
from engine.database.database import Database
from engine.identity import ExecutionIdentity
from engine.ledger import Acceptance, Finish
from engine.models.pricing import GenaiPrices
from engine.result import Status
from engine.tracing import semconv
from engine.tracing.attributes import Attributes
from engine.tracing.tracker import Tracing, WorkflowTracker
from telemetry.journal.journal import Journal
from telemetry.pipeline.pipeline import Pipeline
from telemetry.reconcile.audit import check_books
from telemetry.records.consumer import Records
from telemetry.sdk.providers import Telemetry, build_telemetry
from telemetry.store.tables import spans

NODES = 99
"""Nodes per execution; with the root it has 100 spans."""

EXECUTIONS: dict[Effort, int] = {"smoke": 2, "short": 300, "full": 900}
_STATIC: Attributes = {semconv.NODE_ID: "n", semconv.NODE_TYPE: "variable", semconv.NODE_PATH: "n"}


def _begin(telemetry: Telemetry) -> WorkflowTracker:
    tracing = Tracing.over(telemetry.tracer_provider, telemetry.logger_provider)
    tracker = WorkflowTracker(tracing, GenaiPrices())
    now = time.time_ns()
    tracker.start(ExecutionIdentity(str(uuid7()), 1, "default", "burst", "graph", "api", False, now, now))
    return tracker


def _make_spans(tracker: WorkflowTracker) -> None:
    """Make the spans of all nodes of one execution, and end it."""
    for visit in range(NODES):
        tracker.start_node("execute_node n", _STATIC, visit, 1).complete(label=None, edges="e1", degraded=False)
    tracker.complete()


async def _burst(trackers: list[WorkflowTracker]) -> float:
    """Make the spans of all executions without a pause, and return the spans per second."""
    began = time.perf_counter()
    for tracker in trackers:
        _make_spans(tracker)
        await asyncio.sleep(0)
    return len(trackers) * (NODES + 1) / (time.perf_counter() - began)


@asynccontextmanager
async def _journal() -> AsyncIterator[Runner]:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'burst.db'}"
        await migrations.upgrade(url)
        telemetry = build_telemetry()
        async with Database(url) as database, Journal(database, Pipeline([Records()])) as journal:
            telemetry.add(journal.spans, journal.events)

            async def run(executions: int) -> Work:
                first = str(uuid7())
                trackers = [_begin(telemetry) for _ in range(executions)]
                await asyncio.gather(*(journal.accept(_acceptance(tracker)) for tracker in trackers))
                rate = await _burst(trackers)
                decided = await asyncio.gather(*(journal.finish(_finish(tracker)) for tracker in trackers))
                assert all(decided)
                lost = executions * (NODES + 1) - await _stored(database, first)
                return Work("told", NODES + 1, {"rate": rate, "lost": lost / executions / (NODES + 1)})

            yield run
            assert await check_books(database) == []


def _acceptance(tracker: WorkflowTracker) -> Acceptance:
    return Acceptance(
        identity=tracker.identity,
        status=Status.RUNNING,
        request={},
        graph=None,
        user_message=None,
        root=tracker.root,
        on_lost="fail",
    )


def _finish(tracker: WorkflowTracker) -> Finish:
    return Finish(tracker.identity.execution_id, 1, Status.COMPLETED, {})


async def _stored(database: Database, first: str) -> int:
    async with database.read() as connection:
        return int(await connection.scalar(select(func.count()).where(spans.c.execution_id > first)) or 0)


class _Receiver(HTTPServer):
    """Accepts every export and counts its spans."""

    received = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Take)


class _Take(BaseHTTPRequestHandler):
    server: _Receiver
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Accept one export."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        message = ExportTraceServiceRequest.FromString(body)
        self.server.received += sum(len(s.spans) for r in message.resource_spans for s in r.scope_spans)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@asynccontextmanager
async def _stock() -> AsyncIterator[Runner]:
    """BatchSpanProcessor. The receiver runs in this process, as the journal does, so both have one core."""
    receiver = _Receiver()
    thread = threading.Thread(target=receiver.serve_forever, name="receiver")
    thread.start()
    telemetry = build_telemetry()
    exporter = OTLPSpanExporter(f"http://127.0.0.1:{receiver.server_port}/v1/traces")
    telemetry.tracer_provider.add_span_processor(BatchSpanProcessor(exporter))

    async def run(executions: int) -> Work:
        before = receiver.received
        trackers = [_begin(telemetry) for _ in range(executions)]
        rate = await _burst(trackers)
        telemetry.tracer_provider.force_flush()
        lost = executions * (NODES + 1) - (receiver.received - before)
        return Work("told", NODES + 1, {"rate": rate, "lost": lost / executions / (NODES + 1)})

    try:
        yield run
    finally:
        telemetry.shutdown()
        receiver.shutdown()
        thread.join()
        receiver.server_close()


VARIANTS: dict[str, Variant] = {"journal": _journal, "BatchSpanProcessor": _stock}


def measure(effort: Effort) -> Report:
    """Measure the share of lost spans."""
    found = compare("p11_burst", VARIANTS, executions=EXECUTIONS[effort], effort=effort)
    rows: list[Row] = [
        {
            "way": name,
            "spans in a burst": EXECUTIONS[effort] * (NODES + 1),
            "made per second": its.figure("rate"),
            "lost": max(sample.work.figures["lost"] for sample in its.samples),
            "wall µs/span": its.wall_us / (NODES + 1),
        }
        for name, its in found.items()
    ]
    goals = [
        Goal("share lost through the journal", float(rows[0]["lost"]), 0.0),
        Goal("spans made per second", float(rows[0]["made per second"]), 30_000, at_least=True),
    ]
    notes = ("the worst round counts; a span has arrived when it is committed, or when the receiver has counted it",)
    return Report("P11", "spans lost in a burst", rows, goals, notes)
