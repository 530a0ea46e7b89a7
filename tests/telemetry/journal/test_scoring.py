"""A score goes the way of every signal, and its comment does not."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from api.schemas.scores import MAX_VALUE
from engine.database.database import Database
from engine.errors import NotFound
from engine.tracing.semconv import Event
from telemetry.health import Health
from telemetry.journal import scoring as scoring_module
from telemetry.journal.scoring import Scoring
from telemetry.journal.sinks import OutboxSink
from telemetry.pipeline.pipeline import Pipeline
from telemetry.reads.scores import GivenScore, ScoreFilter, list_scores, mean_scores
from telemetry.records.consumer import Records
from telemetry.retention.job import Retention
from telemetry.retention.periods import Periods
from telemetry.sdk.providers import build_telemetry
from telemetry.signals import otlp
from telemetry.signals.records import EventRecord
from telemetry.store.score_tables import execution_scores, score_comments
from telemetry.store.tables import outbox
from tests.both_modes import collector_mode, count
from tests.telemetry.bookkeeper import SIGNER, Bookkeeper, begin
from tests.telemetry.retention.books import AGO, ALL, KEPT, compare_now

GIVEN = GivenScore("rating", "human", 4.0, "my own words")


async def test_the_event_has_the_names_of_the_conventions_and_the_place_of_the_root(keeper: Bookkeeper) -> None:
    story = await keeper.completed()
    sink = OutboxSink(["records"], health=Health(), signer=SIGNER, on_commit=lambda: None)
    await Scoring(keeper.database, sink).give(story.identity.execution_id, "default", GIVEN)

    async with keeper.database.read() as connection:
        payload = (await connection.execute(select(outbox.c.payload))).scalar_one()
    event = otlp.decode_event(payload)
    root = story.tracker.root
    assert root is not None
    assert (event.name, event.trace_id, event.span_id) == (Event.EVALUATION_RESULT, root.trace_id, root.span_id)
    said = {key: value for key, value in event.attributes.items() if "evaluation" in key or "score" in key}
    assert said == {
        "gen_ai.evaluation.name": "rating",
        "gen_ai.evaluation.score.value": 4.0,
        "workflow.score.source": "human",
    }
    assert b"my own words" not in payload


async def test_an_execution_of_somebody_else_is_unknown(keeper: Bookkeeper) -> None:
    story = await keeper.completed(owner="ann")
    scoring = Scoring(keeper.database, Pipeline([Records()]))
    with pytest.raises(NotFound):
        await scoring.give(story.identity.execution_id, "ben", GIVEN)
    assert await count(keeper.database, score_comments) == 0


async def test_a_later_score_without_a_comment_takes_the_comment_away(keeper: Bookkeeper) -> None:
    id_ = (await keeper.completed()).identity.execution_id
    scoring = Scoring(keeper.database, Pipeline([Records()]))
    for given in (GIVEN, replace(GIVEN, value="poor", comment=None)):
        await scoring.give(id_, "default", given)
    async with keeper.database.read() as connection:
        [score] = await list_scores(connection, id_)
    assert (score.value, score.comment) == ("poor", None)


async def test_a_repeated_request_says_nothing_twice(keeper: Bookkeeper) -> None:
    id_ = (await keeper.completed()).identity.execution_id
    scoring = Scoring(keeper.database, Pipeline([Records()]))
    first = await scoring.give(id_, "default", GIVEN)
    events = [await newest_event(keeper.database)]
    for given in (GIVEN, replace(GIVEN, value=5.0), GIVEN):
        last = await scoring.give(id_, "default", given)
        events.append(await newest_event(keeper.database))

    assert events[0] == events[1], "the same score is the same event"
    assert len(set(events)) == 3, "and what changes is told"
    assert (last.value, last.scored_at > first.scored_at) == (4.0, True)


async def test_the_same_score_from_many_at_once_is_told_once(keeper: Bookkeeper) -> None:
    id_ = (await keeper.completed()).identity.execution_id
    told: list[EventRecord] = []
    scoring = Scoring(keeper.database, Pipeline([Records()]), told.append)
    given = await asyncio.gather(*(scoring.give(id_, "default", GIVEN) for _ in range(8)))
    assert (len(told), len(set(given))) == (1, 1)


async def test_a_name_with_a_secret_is_answered_as_it_is_stored(keeper: Bookkeeper) -> None:
    id_ = (await keeper.completed()).identity.execution_id
    told: list[EventRecord] = []
    scoring = Scoring(keeper.database, Pipeline([Records()]), told.append)
    secret = replace(GIVEN, name="sk-ant-api03-" + "a1B2" * 9)
    first, again = [await scoring.give(id_, "default", secret) for _ in range(2)]
    assert (first.name, again, len(told)) == ("[redacted]", first, 1)


@pytest.mark.parametrize("periods", [replace(KEPT, content=AGO, idempotency=AGO), ALL])
async def test_a_score_given_while_its_execution_is_deleted_leaves_nothing(
    keeper: Bookkeeper, monkeypatch: pytest.MonkeyPatch, periods: Periods
) -> None:
    """Nothing would look for a comment whose control row is gone, nor for a score whose record is."""
    id_ = (await keeper.completed()).identity.execution_id
    await compare_now(keeper.database)
    keep_comment = scoring_module._keep_comment
    deleting: list[asyncio.Task[object]] = []

    async def keep_late(*given: Any) -> None:
        deleting.append(asyncio.create_task(Retention(keeper.database, periods).delete_due()))
        await asyncio.wait(deleting, timeout=1)
        await keep_comment(*given)

    monkeypatch.setattr(scoring_module, "_keep_comment", keep_late)
    await Scoring(keeper.database, Pipeline([Records()])).give(id_, "default", GIVEN)
    await asyncio.gather(*deleting)

    assert await count(keeper.database, score_comments) == 0
    assert await count(keeper.database, execution_scores) == (0 if periods is ALL else 1)


async def newest_event(database: Database) -> str:
    async with database.read() as connection:
        return str((await connection.execute(select(execution_scores.c.event_id))).scalar_one())


async def test_a_score_that_another_one_on_its_way_replaces_is_given_again(keeper: Bookkeeper) -> None:
    id_ = (await keeper.completed()).identity.execution_id
    await Scoring(keeper.database, Pipeline([Records()])).give(id_, "default", GIVEN)
    sink = OutboxSink(["records"], health=Health(), signer=SIGNER, on_commit=lambda: None)
    later = Scoring(keeper.database, sink)
    for value in (5.0, 4.0):
        await later.give(id_, "default", replace(GIVEN, value=value))
    assert await count(keeper.database, outbox) == 2


async def test_through_the_collector_a_score_reaches_an_execution_whose_control_row_is_gone(migrated_url: str) -> None:
    async with collector_mode(migrated_url) as way:
        telemetry = build_telemetry()
        telemetry.add(way.journal.spans, way.journal.events)
        story = begin(telemetry)
        await way.journal.accept(story.acceptance())
        story.answer()
        story.tracker.complete()
        assert await way.journal.finish(story.finish())
        telemetry.shutdown()
        await way.drained()
        assert await compare_now(way.database) == []
        gone = await Retention(way.database, replace(KEPT, content=AGO, idempotency=AGO)).delete_due()
        assert gone.rows["execution_control"] == 1

        sink = OutboxSink(["records", "webhooks"], health=way.health, signer=SIGNER, on_commit=lambda: None)
        await Scoring(way.database, sink).give(story.identity.execution_id, "default", GIVEN)
        await way.drained()

        async with way.database.read() as connection:
            [score] = await list_scores(connection, story.identity.execution_id)
    assert (score.value, score.comment) == (4.0, None), "its content was due, and so is a comment"
    assert way.health.outbox.refused.total() == 0


async def test_the_largest_scores_have_a_mean(keeper: Bookkeeper) -> None:
    scoring = Scoring(keeper.database, Pipeline([Records()]))
    for value in (-MAX_VALUE, MAX_VALUE, MAX_VALUE):
        id_ = (await keeper.completed()).identity.execution_id
        await scoring.give(id_, "default", replace(GIVEN, value=value))
    async with keeper.database.read() as connection:
        [found] = await mean_scores(connection, ScoreFilter())
    assert found.mean == pytest.approx(MAX_VALUE / 3)
