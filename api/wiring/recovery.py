"""Builds what works on signals and content beside the journal: sweeper, scores, replay of dead letters, eraser."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from api.settings import Settings, SettingsInvalid, prepare_process
from api.wiring.exporters import open_exporters
from api.wiring.pipelines import build_consumers
from api.wiring.secret_key import build_signer, check_signing
from api.wiring.shutdown import Patience
from engine.content.policy import Capture
from engine.database.database import Database

if TYPE_CHECKING:
    from engine.store.checkpoints import Checkpoints
    from telemetry.health import Health
    from telemetry.journal.scoring import Scoring
    from telemetry.journal.sinks import Sink
    from telemetry.recovery.replay import Replay
    from telemetry.recovery.sweeper import Sweeper
    from telemetry.retention.erasure import Eraser
    from telemetry.sdk.providers import Telemetry


@asynccontextmanager
async def open_sweeper(settings: Settings, database: Database) -> AsyncIterator["Sweeper"]:
    """A sweeper for commands that run no engine."""
    from telemetry.recovery.sweeper import Sweeper

    async def forget(execution_id: str, attempts: int) -> None:
        async with _open_checkpoints(settings) as checkpoints:
            if checkpoints is not None:
                await checkpoints.forget(execution_id, attempts)

    yield Sweeper(database, _build_sink(settings), on_ended=forget, capture=_find_capture(settings))


def _find_capture(settings: Settings) -> Capture:
    """What spans in the outbox show of content; in embedded mode such a command exports none."""
    if settings.pipeline == "embedded":
        return Capture.NO_CONTENT
    from telemetry.sdk.providers import ExportSettingInvalid, find_capture

    try:
        return find_capture()
    except ExportSettingInvalid as error:
        raise SettingsInvalid(str(error)) from None


@asynccontextmanager
async def open_scoring(settings: Settings, database: Database, patience: Patience) -> AsyncIterator["Scoring"]:
    """Scores for commands that run no engine."""
    async with AsyncExitStack() as stack:
        telemetry = open_exporters(settings, stack, patience)
        yield build_scoring(database, _build_sink(settings), telemetry)


def build_scoring(database: Database, sink: "Sink", telemetry: "Telemetry") -> "Scoring":
    """Scores through this sink, and to the exporters."""
    from telemetry.journal.scoring import Scoring

    return Scoring(database, sink, telemetry.export_event)


def _build_sink(settings: Settings) -> "Sink":
    """A sink of a command; in the Collector mode a running service ships its signals."""
    from telemetry.collector.outbox import RECORDS, WEBHOOKS
    from telemetry.health import Health
    from telemetry.journal.sinks import OutboxSink
    from telemetry.pipeline.pipeline import Pipeline
    from telemetry.sdk.naming import has_former_names

    if settings.pipeline == "collector":
        check_signing(settings)
        signer = build_signer(settings)
        return OutboxSink(
            [RECORDS, WEBHOOKS],
            health=Health(),
            signer=signer,
            on_commit=lambda: None,
            former_names=has_former_names(),
        )
    return Pipeline(build_consumers(settings), health=Health())


@asynccontextmanager
async def open_eraser(settings: Settings, database: Database) -> AsyncIterator["Eraser"]:
    """An eraser for commands that run no engine."""
    async with _open_checkpoints(settings) as checkpoints:
        yield build_eraser(settings, database, checkpoints)


def build_eraser(settings: Settings, database: Database, checkpoints: "Checkpoints | None") -> "Eraser":
    """The eraser; without checkpoints none can be stored in this database."""
    from telemetry.retention.erasure import Eraser

    async def delete(execution_id: str, attempts: int) -> None:
        if checkpoints is not None:
            await checkpoints.delete_thread(execution_id, range(1, attempts + 1))

    return Eraser(database, build_signer(settings), delete)


@asynccontextmanager
async def _open_checkpoints(settings: Settings) -> AsyncIterator["Checkpoints | None"]:
    """The checkpoints in the database; null if it can hold none."""
    prepare_process(settings)
    from engine.store.checkpoints import open_checkpoints, problem

    if problem(settings.database_url) is None:
        async with open_checkpoints(settings.database_url) as checkpoints:
            yield checkpoints
    else:
        yield None


def build_replay(settings: Settings, database: Database, health: "Health | None" = None) -> "Replay":
    """The replay of dead letters; it needs no engine."""
    from telemetry.recovery.replay import Replay

    return Replay(database, build_consumers(settings), health)
