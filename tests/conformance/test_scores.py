"""The same scores make the same rows, embedded and through a Collector that repeats, drops and reorders."""

from random import Random

from sqlalchemy import select

from engine.database.database import Database
from telemetry.journal.scoring import Scoring
from telemetry.journal.sinks import OutboxSink
from telemetry.pipeline.pipeline import Pipeline
from telemetry.reads.scores import GivenScore, Score, ScoreFilter, ScoreMean, list_scores, mean_scores
from telemetry.store.tables import executions
from tests.both_modes import both_modes, collector_mode, consumers
from tests.misbehaving_collector import by_chance
from tests.telemetry.bookkeeper import SIGNER

EXECUTIONS, SCORES = 12, 60
VALUES: list[float | str] = [1.0, 2.5, 4.0, "good", "poor"]


async def read(database: Database) -> tuple[list[list[Score]], list[ScoreMean]]:
    """Scores of each execution, and means."""
    async with database.read() as connection:
        ids = (await connection.execute(select(executions.c.id).order_by(executions.c.id))).scalars().all()
        return [await list_scores(connection, id_) for id_ in ids], await mean_scores(connection, ScoreFilter())


async def test_both_modes_have_the_same_scores(migrated_url: str, other_sqlite_url: str) -> None:
    mood = by_chance(Random(5), takes=60, rejects=10, refuses=4, fails=12, dawdles=5, swallows=5)
    way_there = collector_mode(migrated_url, mood, unlucky=0.05, repeats=0.3, confirm_seconds=2.0)
    async with way_there as way, both_modes(other_sqlite_url, way) as modes:
        ids = [await modes.tell(number) for number in range(EXECUTIONS)]
        sink = OutboxSink(["records", "webhooks"], health=way.health, signer=SIGNER, on_commit=lambda: None)
        both = Scoring(modes.embedded_database, Pipeline(consumers())), Scoring(way.database, sink)
        chance = Random(7)
        for number in range(SCORES):
            value: float | str = chance.choice(VALUES)
            comment = chance.choice([None, f"because {number}"])
            given = GivenScore(chance.choice(["rating", "length"]), chance.choice(["human", "code"]), value, comment)
            id_ = chance.choice(ids)
            for scoring in both:
                await scoring.give(id_, "default", given)
        await way.drained()
        embedded, collected = await read(modes.embedded_database), await read(way.database)

    assert _said(embedded[0]) == _said(collected[0])
    assert embedded[1] == collected[1]
    assert sum(map(len, embedded[0])) > EXECUTIONS


def _said(found: list[list[Score]]) -> list[list[tuple[object, ...]]]:
    """The scores without their times, which differ by the moment."""
    return [[(one.name, one.source, one.value, one.comment) for one in scores] for scores in found]
