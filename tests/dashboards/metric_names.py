"""Which metrics there are, and their labels: what dashboards and alerts may ask for."""

import re
from collections.abc import Iterator, Mapping

import promql_parser
import yaml
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics

from dashboards.options import Options
from dashboards.rule_files import rule_files
from engine.database.database import Database
from telemetry.journal.scoring import Scoring
from telemetry.metrics.exposition import Metrics
from telemetry.pipeline.pipeline import Pipeline
from telemetry.reads.scores import GivenScore
from telemetry.records.consumer import Records
from telemetry.signals.records import Batch
from telemetry.store.tables import reconcile_runs
from tests.telemetry.bookkeeper import EVERY_KIND, Listener

OF_THE_SCRAPE = {"instance", "job"}
OF_THE_COLLECTOR = {
    "otelcol_exporter_queue_size": {"exporter"},
    "otelcol_exporter_queue_capacity": {"exporter"},
    "otelcol_exporter_enqueue_failed_spans": {"exporter"},
    "otelcol_exporter_enqueue_failed_log_records": {"exporter"},
    "otelcol_exporter_send_failed_spans": {"exporter"},
    "otelcol_exporter_send_failed_log_records": {"exporter"},
    "otelcol_receiver_accepted_spans": {"receiver"},
    "otelcol_process_memory_rss": set(),
}
"""Its own metrics, by their names in 0.161."""

_SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')
_MADE = re.compile(r', "(\w+)", "[^"]*", "\w*", "[^"]*"\)')
"""The label that `label_replace` adds."""
_GROUPING = re.compile(r"\b(?:by|without) \(([^)]*)\)")


async def known_metrics(database: Database) -> dict[str, set[str]]:
    """Name to labels: of the service after an execution with everything, of the recording rules, of the Collector."""
    known: dict[str, set[str]] = {}
    for family in await metric_families(database):
        for sample in family.samples:
            known.setdefault(sample.name, set()).update(sample.labels)
    return known | recorded() | OF_THE_COLLECTOR


async def metric_families(database: Database) -> list[Metric]:
    """What the service shows after an execution with everything."""
    listener = Listener()
    story = listener.begin()
    story.answer(EVERY_KIND, streams=True)
    story.tool()
    story.tracker.first_token()
    story.tracker.complete()
    batch = Batch.of(listener.signals())
    now = story.tracker.started_at
    run = {"scheduled_for": now, "started_at": now, "finished_at": now, "since": now, "until": now}
    async with database.begin() as connection:
        await Records().apply(connection, batch)
        await connection.execute(reconcile_runs.insert().values(run | {"differences": 0, "drift_nano_usd": 0}))
    await Scoring(database, Pipeline([Records()])).give(
        story.identity.execution_id, story.identity.owner, GivenScore("rating", "human", 4.0)
    )
    metrics = Metrics(database, Pipeline([Records()]).health)
    metrics.feed(batch)
    _, text = await metrics.exposition("application/openmetrics-text; version=1.0.0")
    return list(open_metrics(text.decode()))  # type: ignore[no-untyped-call]  # prometheus-client leaves its types out here


def recorded() -> dict[str, set[str]]:
    """The recording rules."""
    groups = yaml.safe_load(rule_files(Options())["recordings.yaml"])["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    more = {
        "spanloom:executions:total": {"status", "error_class"},
        "spanloom:model_calls:total": {"model"},
        "spanloom:failed_calls:total": {"model"},
    }
    return {rule["record"]: {"template"} | more.get(rule["record"], set()) for rule in rules}


def problems(expr: str, known: Mapping[str, set[str]]) -> list[str]:
    """What an expression asks for that nobody tells."""
    promql_parser.parse(expr)
    names = set(_names(expr))
    unknown = [f"no metric {name} in {expr}" for name in sorted(names - known.keys())]
    labels = set[str]().union(*(known.get(name, set()) for name in names)) | OF_THE_SCRAPE | {*_MADE.findall(expr)}
    for selector in _SELECTOR.finditer(expr):
        wrong = set(_MATCHER.findall(selector[2])) - known.get(selector[1], labels) - OF_THE_SCRAPE
        unknown += [f"{selector[1]} has no label {label} in {expr}" for label in sorted(wrong)]
    for grouping in _GROUPING.finditer(expr):
        wrong = {label.strip() for label in grouping[1].split(",")} - labels
        unknown += [f"no label {label} in {expr}" for label in sorted(wrong)]
    return unknown


def _names(expr: str) -> Iterator[str]:
    """Every metric named in an expression."""
    bare = re.sub(r'"[^"]*"', '""', expr)
    bare = re.sub(r"\b(?:by|without) \([^)]*\)|\{[^}]*\}|\[[^\]]*\]", "", bare)
    yield from re.findall(r"\b(?:spanloom|traces_span|gen_ai|workflow|otelcol|process)[a-zA-Z0-9_:]*", bare)
