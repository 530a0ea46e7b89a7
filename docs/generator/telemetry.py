"""The pages of metrics, of spans and events, and of tables."""

import asyncio
import tempfile
from pathlib import Path

from prometheus_client import Metric

from api.access import tables as access_tables
from docs.generator.markdown import code, codes, field_docs, page, prose, table, variable_docs
from engine.database.base import metadata
from engine.database.database import Database
from engine.database.migrations import upgrade
from engine.store import tables as engine_tables
from engine.tracing import semconv
from telemetry.store import retention_tables, score_tables
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
    former = [(code(each.name), code(each.former), each.since, each.readers) for each in semconv.RENAMED]
    return page(
        "Spans, events and attributes",
        _SPANS,
        "## Spans",
        table(("name", "stands for"), spans),
        "## Events",
        table(("name", "says"), events),
        "## Attributes",
        table(("key", "type", "unit", "meaning"), attributes),
        "## Former names",
        _FORMER,
        table(("name", "former name", "since", "the former name is read by"), former),
    )


def tables_page() -> str:
    """Every table with its columns."""
    docs: dict[str, str] = {}
    for module in (engine_tables, telemetry_tables, retention_tables, score_tables, access_tables):
        docs |= variable_docs(module)
    places = {name: place for place, name in enumerate(docs)}
    sections = []
    for name, each in sorted(metadata.tables.items(), key=lambda item: (places.get(item[0], len(places)), item[0])):
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
conventions 0.1.0; spanloom's own names begin with `workflow.`. Each scope has spanloom's version and the schema URL of
the conventions. A model call that fails is an event `gen_ai.client.inference.exception`, too, for log stores."""

_FORMER = """The GenAI conventions have changed these names in the release given. Spans, metrics and events for log
stores come under both names, until the list in `OTEL_SEMCONV_STABILITY_OPT_IN` has `gen_ai_latest_experimental`: set it
for the service and for the Collector. Records hold the new names only."""

_TABLES = """One schema for SQLite and PostgreSQL, changed by migrations only. Times are UTC, money is integer
nano-USD (10⁻⁹ dollars), ids are text. Read as you like; write through spanloom only."""
