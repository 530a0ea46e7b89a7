"""Scrapes of `/metrics`, as the tests read them."""

from datetime import UTC, datetime

from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text
from sqlalchemy import insert

from engine.database.database import Database
from engine.store.tables import workflow_templates
from telemetry.metrics.exposition import Metrics
from telemetry.pipeline.pipeline import Pipeline
from telemetry.records.consumer import Records

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
Samples = dict[str, float]


async def scrape(metrics: Metrics, accept: str = OPEN_METRICS) -> Samples:
    """Every sample by its name and labels that are not empty."""
    content_type, text = await metrics.exposition(accept)
    parse = open_metrics if content_type.startswith("application/openmetrics-text") else plain_text
    return {
        sample.name + str(sorted((key, value) for key, value in sample.labels.items() if value)): sample.value
        for family in parse(text.decode())
        for sample in family.samples
    }


def only(samples: Samples, start: str) -> list[float]:
    """The values of the samples whose name begins so."""
    return [value for name, value in samples.items() if name.startswith(start)]


def made(database: Database) -> Metrics:
    """Metrics with nothing counted yet."""
    return Metrics(database, Pipeline([Records()]).health)


async def register(database: Database, template_id: str = "t-1", key: str = "answer") -> None:
    """A stored template that nobody has run yet."""
    now = datetime.now(UTC)
    async with database.begin() as connection:
        await connection.execute(
            insert(workflow_templates).values(
                template_id=template_id,
                version=1,
                owner_id="",
                key=key,
                name=key,
                description="",
                category="chat",
                tags=[],
                parameters={},
                defaults={},
                graph={},
                required_tools=[],
                required_retrievers=[],
                content_hash="sha256:00",
                is_builtin=True,
                is_public=True,
                is_latest=True,
                created_at=now,
            )
        )
