"""Builds the sweeper of lost executions and the replay of dead letters."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from api.settings import Settings, prepare_process
from api.wiring.pipelines import build_consumers
from api.wiring.secret_key import build_signer, check_signing
from engine.database.database import Database

if TYPE_CHECKING:
    from telemetry.health import Health
    from telemetry.journal.sinks import Sink
    from telemetry.recovery.replay import Replay
    from telemetry.recovery.sweeper import Sweeper


@asynccontextmanager
async def open_sweeper(settings: Settings, database: Database) -> AsyncIterator["Sweeper"]:
    """A sweeper for commands that run no engine; in the Collector mode a running service ships its signals."""
    from telemetry.collector.outbox import RECORDS, WEBHOOKS
    from telemetry.health import Health
    from telemetry.journal.sinks import OutboxSink
    from telemetry.pipeline.pipeline import Pipeline
    from telemetry.recovery.sweeper import Sweeper

    async def forget(execution_id: str, attempts: int) -> None:
        prepare_process(settings)
        from engine.store.checkpoints import open_checkpoints, problem

        if problem(settings.database_url) is None:
            async with open_checkpoints(settings.database_url) as checkpoints:
                await checkpoints.forget(execution_id, attempts)

    health = Health()
    if settings.pipeline == "collector":
        check_signing(settings)
        signer = build_signer(settings)
        sink: Sink = OutboxSink([RECORDS, WEBHOOKS], health=health, signer=signer, on_commit=lambda: None)
    else:
        sink = Pipeline(build_consumers(settings), health=health)
    yield Sweeper(database, sink, on_ended=forget)


def build_replay(settings: Settings, database: Database, health: "Health | None" = None) -> "Replay":
    """The replay of dead letters; it needs no engine."""
    from telemetry.recovery.replay import Replay

    return Replay(database, build_consumers(settings), health)
