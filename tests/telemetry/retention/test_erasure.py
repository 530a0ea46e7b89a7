"""Content is deleted in small batches; what cannot be deleted yet stops the batch."""

import asyncio
from collections.abc import Collection

import pytest
from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import NotFinished
from engine.retention import erasure as of_engine
from engine.store.tables import execution_control, tombstones
from telemetry.retention import erasure
from telemetry.retention.erasure import Eraser
from telemetry.retention.job import Retention, RetentionReport
from telemetry.store.tables import executions
from tests.telemetry.bookkeeper import SIGNER, Bookkeeper
from tests.telemetry.retention.books import ALL, compare_now


def an_eraser(keeper: Bookkeeper, deleted: list[tuple[str, int]]) -> Eraser:
    """An eraser over the bookkeeper's database; `deleted` gets the executions whose checkpoints it deletes."""

    async def delete(execution_id: str, attempts: int) -> None:
        deleted.append((execution_id, attempts))

    return Eraser(keeper.database, SIGNER, delete)


async def test_many_executions_are_erased_a_few_per_transaction(
    keeper: Bookkeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "BATCH", 2)
    ids = [(await keeper.completed()).identity.execution_id for _ in range(5)]
    commits = 0

    def count(*_: object) -> None:
        nonlocal commits
        commits += 1

    event.listen(keeper.database._writer.sync_engine, "commit", count)
    deleted: list[tuple[str, int]] = []
    await an_eraser(keeper, deleted).erase(ids, "expired")
    assert commits == 3
    assert sorted(deleted) == sorted((id_, 1) for id_ in ids)
    async with keeper.database.read() as connection:
        assert set((await connection.execute(select(tombstones.c.execution_id))).scalars()) == set(ids)
        rows = (await connection.execute(select(execution_control.c.request, execution_control.c.subject))).all()
        assert all(row.request == {} and row.subject["params"] == {} for row in rows)
        assert set(map(str, (await connection.execute(select(executions.c.params))).scalars())) == {"{}"}


async def test_a_batch_with_an_unfinished_execution_stays_as_it_was(keeper: Bookkeeper) -> None:
    ended = (await keeper.completed()).identity.execution_id
    story = keeper.begin()
    await keeper.journal.accept(story.acceptance())
    running = story.identity.execution_id
    deleted: list[tuple[str, int]] = []
    with pytest.raises(NotFinished, match=running):
        await an_eraser(keeper, deleted).erase([ended, running], "forgotten")
    async with keeper.database.read() as connection:
        assert (await connection.execute(select(tombstones))).all() == []
        params = (await connection.execute(select(executions.c.params).where(executions.c.id == ended))).scalar_one()
    assert params == {"style": "short"}
    assert deleted == []


async def test_forgetting_and_retention_of_the_same_execution_wait_for_each_other(
    keeper: Bookkeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both lock control rows before records; the other order would be a deadlock on PostgreSQL."""
    id_ = (await keeper.completed()).identity.execution_id
    await compare_now(keeper.database)
    check_erasable = of_engine.check_erasable
    deleting: list[asyncio.Task[RetentionReport]] = []

    async def check_slowly(connection: AsyncConnection, execution_ids: Collection[str]) -> None:
        await check_erasable(connection, execution_ids)
        deleting.append(asyncio.create_task(Retention(keeper.database, ALL).delete_due()))
        await asyncio.wait(deleting, timeout=0.5)

    monkeypatch.setattr(of_engine, "check_erasable", check_slowly)
    await an_eraser(keeper, []).erase([id_], "forgotten")
    report = await deleting[0]
    assert report.rows["executions"] == 1
