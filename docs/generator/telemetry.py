"""The pages of metrics, of spans and events, and of tables."""

import asyncio
import tempfile
from pathlib import Path

from prometheus_client import Metric

from docs.generator.markdown import code, codes, field_docs, page, prose, table, variable_docs
from engine.database.base import metadata
from engine.database.database import Database
from engine.database.migrations import upgrade
from engine.store import tables as engine_tables
from engine.tracing import semconv
from telemetry.store import tables as telemetry_tables
from tests.dashboards.metric_names import metric_families

_SUFFIXES = {"counter": "_total", "info": "_info"}
"""What a sample's name has more than its family's, by type."""


def metrics_page() -> str:
    """Every metric that `/metrics` shows after an execution with a model call and a tool call."""
    rows = [
        (
            code(family.name + _SUFFIXES.get(family.type, "")),
            family.type,
            codes(sorted({label for sample in family.samples for label in sample.labels} - {"le"})),
            family.documentation,
        )
        for family in asyncio.run(_families())
    ]
    return page("Metrics", _METRICS, table(("name", "type", "labels", "meaning"), sorted(rows)))


async def _families() -> list[Metric]:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'metrics.db'}"
        await upgrade(url)
        async with Database(url) as database:
            return await metric_families(database)


def spans_page() -> str:
    """Names of spans and events, and every attribute key."""
    names = (
        (getattr(semconv, name), text) for name, text in variable_docs(semconv).items() if name.startswith("SPAN_")
    )
    spans = [(code(name), meaning) for name, meaning in names]
    meanings = field_docs(semconv.Event)
    events = [(code(event.value), meanings[event.name]) for event in semconv.Event]
    attributes = [(code(each.key), each.type, each.unit, each.meaning) for each in semconv.ATTRIBUTES.values()]
    return page(
        "Spans, events and attributes",
        _SPANS,
        "## Spans",
        table(("name", "stands for"), spans),
        "## Events",
        table(("name", "says"), events),
        "## Attributes",
        table(("key", "type", "unit", "meaning"), attributes),
    )


def tables_page() -> str:
    """Every table with its columns."""
    docs = variable_docs(engine_tables) | variable_docs(telemetry_tables)
    sections = []
    for name, each in metadata.tables.items():
        columns = [
            (
                code(column.name),
                str(column.type).lower(),
                "key" if column.primary_key else "null" if column.nullable else "",
            )
            for column in each.columns
        ]
        parts = (f"## {name}", prose(docs.get(name)), table(("column", "type", ""), columns))
        sections.append("\n\n".join(part for part in parts if part))
    return page("Tables", _TABLES, *sections)


_METRICS = """`GET /metrics` speaks OpenMetrics with exemplars. Counters of executions, cost and tokens are read
from the roll-ups at each scrape, so they are exact and agree with the records."""

_SPANS = """Every execution is one span tree. `gen_ai.*`, `error.type` and `server.*` follow the OpenTelemetry GenAI
conventions; spanloom's own names begin with `workflow.`."""

_TABLES = """One schema for SQLite and PostgreSQL, changed by migrations only. Times are UTC, money is integer
nano-USD (10⁻⁹ dollars), ids are text. Read as you like; write through spanloom only."""
