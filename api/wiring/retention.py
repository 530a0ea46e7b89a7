"""Builds the job that deletes what is due."""

from datetime import timedelta
from typing import TYPE_CHECKING

from api.settings import Settings
from engine.database.database import Database

if TYPE_CHECKING:
    from telemetry.health import Health
    from telemetry.retention.erasure import Eraser
    from telemetry.retention.job import Retention


def build_retention(
    settings: Settings, database: Database, eraser: "Eraser", health: "Health | None" = None
) -> "Retention":
    """The job with the periods of the settings. Content that is not kept goes as soon as nobody can fetch it."""
    from telemetry.retention.job import Retention
    from telemetry.retention.periods import Periods

    periods = Periods(
        content=timedelta(days=settings.content_days if settings.content != "none" else 0),
        spans=timedelta(days=settings.spans_days),
        records=None if settings.records_days is None else timedelta(days=settings.records_days),
        idempotency=timedelta(hours=settings.idempotency_hours),
    )
    return Retention(database, periods, health, erase=eraser.erase_rows)
