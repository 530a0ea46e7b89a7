"""What is due goes, what something still needs stays, and the books agree before and after."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Table, func, insert, select, update
from uuid_utils.compat import uuid7

from engine.database.database import Database
from engine.ledger import Checkpoint
from engine.retention import erasure
from engine.store.tables import call_content, conversation_messages, conversations, execution_control, graphs
from telemetry.health import Health
from telemetry.retention import job, stores
from telemetry.retention.holds import Hold
from telemetry.retention.job import Retention, RetentionReport
from telemetry.retention.periods import Periods, Rule, set_rule
from telemetry.store.retention_tables import pruned_rollups
from telemetry.store.score_tables import score_comments
from telemetry.store.tables import (
    dead_letter,
    executions,
    outbox,
    spans,
    webhook_deliveries,
    webhook_events,
)
from tests.both_modes import add_endpoint, consumers, count
from tests.telemetry.bookkeeper import Bookkeeper, bookkeeper
from tests.telemetry.retention.books import AGO, ALL, KEPT, LONG, check_history, compare_now, rollups

SPANS = replace(KEPT, spans=AGO)
CONTROL = replace(KEPT, content=AGO, idempotency=AGO)


async def sizes(database: Database) -> dict[str, int]:
    """The number of rows of the tables that retention empties."""
    tables: tuple[Table, ...] = (execution_control, graphs, spans, executions, webhook_events, dead_letter)
    return {table.name: await count(database, table) for table in tables}


async def prune(database: Database, periods: Periods) -> RetentionReport:
    """Everything that is due goes, and what is left agrees."""
    report = await Retention(database, periods).delete_due()
    await check_history(database)
    return report


async def test_nothing_goes_before_its_time(keeper: Bookkeeper) -> None:
    await keeper.completed()
    await compare_now(keeper.database)
    before = await sizes(keeper.database)

    report = await prune(keeper.database, Periods())

    assert report.rows.total() == 0
    assert await sizes(keeper.database) == before


async def test_what_would_go_is_what_goes(keeper: Bookkeeper) -> None:
    for _ in range(3):
        await keeper.completed()
    await compare_now(keeper.database)
    only_books = replace(ALL, records=None)

    planned = await Retention(keeper.database, only_books).find_due()
    done = await prune(keeper.database, only_books)

    graph = {"graphs": 1}  # named until the control rows are gone, so it is no part of the plan
    assert planned.rows + type(planned.rows)(graph) == done.rows
    assert (done.rows["execution_control"], done.rows["spans"]) == (3, 18)
    assert done.tables["spans"].oldest is not None


async def test_pruned_spans_leave_the_record_its_cost_and_the_rollups(keeper: Bookkeeper) -> None:
    story = await keeper.completed()
    await compare_now(keeper.database)
    before = await rollups(keeper.database)

    await prune(keeper.database, SPANS)

    assert await count(keeper.database, spans) == 0
    assert await rollups(keeper.database) == before
    async with keeper.database.read() as connection:
        record = (await connection.execute(select(executions))).mappings().one()
    assert (record["id"], record["cost_nano_usd"]) == (story.identity.execution_id, 140_000)
    assert record["spans_pruned_at"] is not None
    assert await compare_now(keeper.database) == [], "the mark exempts them"


async def test_pruned_records_leave_the_rollups(keeper: Bookkeeper) -> None:
    for _ in range(3):
        await keeper.completed()
    await compare_now(keeper.database)
    before = await rollups(keeper.database)

    await prune(keeper.database, ALL)

    assert await sizes(keeper.database) == dict.fromkeys(await sizes(keeper.database), 0)
    assert await rollups(keeper.database) == before
    assert await compare_now(keeper.database) == []


async def test_a_clerk_who_deletes_spans_and_sets_the_mark_is_found(keeper: Bookkeeper) -> None:
    await keeper.completed()
    async with keeper.database.begin() as connection:
        await connection.execute(spans.delete())
        await connection.execute(update(executions).values(spans_pruned_at=datetime.now(UTC)))

    assert any("cost_nano_usd" in difference for difference in await compare_now(keeper.database))


async def test_an_execution_with_more_spans_than_a_transaction_takes(
    keeper: Bookkeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "SPANS_AT_ONCE", 4)
    for _ in range(3):
        await keeper.completed()
    await compare_now(keeper.database)

    report = await prune(keeper.database, SPANS)

    assert report.rows["spans"] == 18


async def test_what_is_unfinished_stays(keeper: Bookkeeper) -> None:
    running = keeper.begin()
    await keeper.journal.accept(running.acceptance())
    running.answer()
    await keeper.journal.checkpoint(Checkpoint(running.identity.execution_id, running.identity.attempt))
    await compare_now(keeper.database)
    before = await sizes(keeper.database)
    assert before["spans"] > 0

    assert (await Retention(keeper.database, ALL).delete_due()).rows.total() == 0
    assert await sizes(keeper.database) == before

    running.tracker.complete()
    assert await keeper.journal.finish(running.finish())


async def owe(database: Database, execution_id: str) -> None:
    """Put a signal of the execution back into the outbox."""
    async with database.begin() as connection:
        await connection.execute(
            insert(outbox).values(
                id=f"{execution_id}/ffffffffffffffff",
                is_event=False,
                scope="spanloom.engine",
                payload=b"",
                owes_records=True,
                owes_webhooks=False,
                kept_at=datetime.now(UTC),
                attempts=0,
            )
        )


async def fail_to_store(database: Database, execution_id: str) -> None:
    """A signal of the execution is a dead letter."""
    letter = {"id": str(uuid7()), "consumer": "records", "execution_id": execution_id, "signal": {}, "reason": "x"}
    async with database.begin() as connection:
        await connection.execute(insert(dead_letter).values(at=datetime.now(UTC), **letter))


@pytest.mark.parametrize(("hold", "owed"), [(Hold.OUTBOX, owe), (Hold.DEAD_LETTERS, fail_to_store)])
async def test_what_is_owed_to_somebody_stays(keeper: Bookkeeper, hold: Hold, owed: object) -> None:
    owing = await keeper.completed()
    await keeper.completed()
    await compare_now(keeper.database)
    await owed(keeper.database, owing.identity.execution_id)  # type: ignore[operator]  # one of the two above

    report = await Retention(keeper.database, replace(ALL, dead_letters=LONG)).delete_due()

    left = (await sizes(keeper.database))["executions"], (await sizes(keeper.database))["spans"]
    assert left == (1, 6)
    assert report.held[hold] == 1


async def test_books_that_were_not_compared_stay(keeper: Bookkeeper) -> None:
    await keeper.completed()

    report = await Retention(keeper.database, ALL).delete_due()

    assert (await count(keeper.database, spans), await count(keeper.database, executions)) == (6, 1)
    assert report.held[Hold.NOT_COMPARED] == 1


async def test_what_would_explain_a_difference_stays(keeper: Bookkeeper) -> None:
    await keeper.completed()
    async with keeper.database.begin() as connection:
        await connection.execute(update(executions).values(cost_nano_usd=1))
    assert await compare_now(keeper.database) != []

    report = await Retention(keeper.database, ALL).delete_due()

    assert await count(keeper.database, spans) == 6
    assert report.held[Hold.NOT_COMPARED]
    async with keeper.database.begin() as connection:
        await connection.execute(update(executions).values(cost_nano_usd=140_000))


async def say(database: Database, execution_id: str) -> None:
    """Content of the execution in every table that holds some."""
    key = {"execution_id": execution_id}
    now = datetime.now(UTC)
    call = {"call_id": "c", "attempt": 1, "operation": "chat", "node_id": "n", "document": b"", "cut": [], "at": now}
    said = {"position": 1, "message_id": "m", "role": "user", "content": "my secret", "created_at": now}
    async with database.begin() as connection:
        await connection.execute(update(execution_control).values(request={"input": "my secret"}))
        await connection.execute(insert(call_content).values(key | call))
        await connection.execute(
            insert(score_comments).values(key | SCORE | {"comment": "my secret", "scored_at": now})
        )
        talk = {"conversation_id": "talk", "owner_id": "default", "created_at": now, "updated_at": now}
        await connection.execute(insert(conversations).values(talk))
        await connection.execute(insert(conversation_messages).values(key | {"conversation_id": "talk"} | said))


SCORE = {"name": "rating", "source": "human"}
CONTENT_TABLES = (call_content, score_comments, conversation_messages)


async def test_content_goes_when_it_is_due_whatever_holds_its_row(keeper: Bookkeeper) -> None:
    story = await keeper.completed()
    await say(keeper.database, story.identity.execution_id)

    report = await prune(keeper.database, CONTROL)

    assert report.held[Hold.NOT_COMPARED] == 1
    assert [await count(keeper.database, table) for table in CONTENT_TABLES] == [0, 0, 0]
    async with keeper.database.read() as connection:
        row = (await connection.execute(select(execution_control.c.request, execution_control.c.result))).one()
        assert await erasure.why_gone(connection, story.identity.execution_id) == "expired"
    assert "my secret" not in str(row)
    assert (await Retention(keeper.database, CONTROL).delete_due()).rows.total() == 0, "it is done once"


async def test_content_goes_with_its_control_row(keeper: Bookkeeper) -> None:
    story = await keeper.completed()
    await say(keeper.database, story.identity.execution_id)
    await compare_now(keeper.database)

    planned = await Retention(keeper.database, CONTROL).find_due()
    report = await prune(keeper.database, CONTROL)

    wanted = {"execution_control": 1, "call_content": 1, "score_comments": 1, "conversation_messages": 1}
    assert {name: report.rows[name] for name in wanted} == {name: planned.rows[name] for name in wanted} == wanted
    async with keeper.database.read() as connection:
        assert (await connection.execute(select(executions.c.params))).scalar_one() == {}
    assert await compare_now(keeper.database) == []


async def test_the_messages_of_a_conversation_stay_while_a_turn_of_it_runs(keeper: Bookkeeper) -> None:
    story = await keeper.completed()
    await say(keeper.database, story.identity.execution_id)
    await compare_now(keeper.database)
    running = keeper.begin()
    await keeper.journal.accept(running.acceptance())
    async with keeper.database.begin() as connection:
        await connection.execute(update(execution_control).values(conversation_id="talk"))
        await connection.execute(update(executions).values(conversation_id="talk"))

    report = await Retention(keeper.database, CONTROL).delete_due()

    assert report.held[Hold.CONVERSATION] == 1
    assert [await count(keeper.database, table) for table in CONTENT_TABLES] == [1, 1, 1]
    running.tracker.complete()
    assert await keeper.journal.finish(running.finish())


async def test_an_answer_is_kept_for_the_idempotency_window(keeper: Bookkeeper) -> None:
    await keeper.completed()
    await compare_now(keeper.database)

    await prune(keeper.database, replace(KEPT, content=AGO, idempotency=timedelta(hours=1)))

    assert await count(keeper.database, execution_control) == 1


async def test_a_graph_stays_as_long_as_a_control_row_names_it(keeper: Bookkeeper) -> None:
    await keeper.completed(graph_hash="sha256:11")
    await keeper.completed(graph_hash="sha256:22")
    await compare_now(keeper.database)
    async with keeper.database.begin() as connection:
        await connection.execute(execution_control.delete().where(execution_control.c.graph_hash == "sha256:11"))
        await connection.execute(update(executions).values(control_pruned_at=datetime.now(UTC)))

    await prune(keeper.database, replace(KEPT, idempotency=AGO))

    async with keeper.database.read() as connection:
        assert (await connection.execute(select(graphs.c.content_hash))).scalars().all() == ["sha256:22"]


async def test_webhooks_go_once_they_are_delivered(database: Database) -> None:
    await add_endpoint(database)
    async with bookkeeper(database, consumers()) as keeper:
        story = await keeper.completed()
        await compare_now(database)
        webhooks = replace(KEPT, webhooks=AGO)
        await prune(database, webhooks)
        assert await count(database, webhook_events) == 1, "it is still to be delivered"
        await prune(database, ALL)
        assert await count(database, executions) == 1

        async with database.begin() as connection:
            await connection.execute(
                webhook_deliveries.update().values(state="delivered", next_attempt_at=None, ended_at=datetime.now(UTC))
            )
        await prune(database, webhooks)

    assert await count(database, webhook_events) == 0
    async with database.read() as connection:
        marks = await connection.execute(select(executions.c.id, executions.c.webhooks_pruned_at.is_not(None)))
        assert [(row[0], bool(row[1])) for row in marks] == [(story.identity.execution_id, True)]


async def test_a_rule_of_an_owner_keeps_other_owners_rows(keeper: Bookkeeper) -> None:
    for owner in ("ann", "ben"):
        await keeper.completed(owner=owner)
    await compare_now(keeper.database)
    async with keeper.database.begin() as connection:
        await set_rule(connection, Rule(owner="ann", spans_days=0))

    await prune(keeper.database, KEPT)

    async with keeper.database.read() as connection:
        assert set((await connection.execute(select(spans.c.owner_id))).scalars()) == {"ben"}


async def test_rows_are_counted_by_table(keeper: Bookkeeper) -> None:
    await keeper.completed()
    await compare_now(keeper.database)
    health = Health()

    await Retention(keeper.database, SPANS, health).delete_due()

    assert +health.rows_pruned == {"spans": 6}
    assert health.rows_pruned.keys() >= {"execution_control", "executions", "graphs", "dead_letter"}, "from 0 on"


async def test_the_job_does_not_wait_for_its_interval_after_a_start(
    keeper: Bookkeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service may never run for as long as that."""
    monkeypatch.setattr(job, "FIRST_SECONDS", 0.0)
    await keeper.completed()
    await compare_now(keeper.database)
    run = asyncio.create_task(Retention(keeper.database, SPANS).run(every_seconds=3_600), name="retention")
    async with asyncio.timeout(30):
        while True:
            if not await count(keeper.database, spans):
                break
            await asyncio.sleep(0.01)
    run.cancel()


async def test_many_pages_are_gone_through(keeper: Bookkeeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "PAGE", 2)
    for _ in range(5):
        await keeper.completed()
    await compare_now(keeper.database)

    assert (await prune(keeper.database, ALL)).rows["executions"] == 5
    async with keeper.database.read() as connection:
        sums = select(func.sum(pruned_rollups.c.executions_completed), func.sum(pruned_rollups.c.model_calls))
        assert tuple((await connection.execute(sums)).one()) == (5, 5)
