"""Stores the questions of paused executions and the first answer to each. Works in the caller's transaction."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Row, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import insert, now_sql, storable
from engine.ledger import GivenAnswer
from engine.result import Approval
from engine.store.tables import approvals, execution_control

_QUESTION = ("approval_id", "node_id", "path", "prompt", "payload", "choices", "response_schema", "expires_at")


async def ask(connection: AsyncConnection, questions: Sequence[tuple[str, Approval]]) -> None:
    """Store questions, each with its execution id. A question that is already stored is not changed."""
    if not questions:
        return
    statement = insert(connection.dialect, approvals).values(created_at=now_sql()).on_conflict_do_nothing()
    owners = await _owners(connection, {execution_id for execution_id, _ in questions})
    await connection.execute(
        statement,
        [
            {"execution_id": execution_id, "owner_id": owners[execution_id]}
            | {name: storable(getattr(question, name)) for name in _QUESTION}
            for execution_id, question in questions
        ],
    )


async def list_open(connection: AsyncConnection, execution_id: str) -> list[Approval]:
    """Return the unanswered questions of an execution, oldest first."""
    rows = await connection.execute(
        select(approvals)
        .where(approvals.c.execution_id == execution_id, approvals.c.answered_at.is_(None))
        .order_by(approvals.c.created_at, approvals.c.approval_id)
    )
    return [_read(row) for row in rows]


async def find(connection: AsyncConnection, execution_id: str, approval_id: str) -> tuple[Approval, bool] | None:
    """Return a question and whether it is answered; null if the execution has no question with this id."""
    rows = await connection.execute(
        select(approvals).where(approvals.c.execution_id == execution_id, approvals.c.approval_id == approval_id)
    )
    row = rows.one_or_none()
    return None if row is None else (_read(row), row.answered_at is not None)


async def answer(connection: AsyncConnection, given: GivenAnswer) -> bool:
    """Store the answer; returns false if the question has already been answered."""
    rows = await connection.execute(
        update(approvals)
        .where(approvals.c.approval_id == given.approval_id, approvals.c.answered_at.is_(None))
        .values(
            answer={"choice": given.choice, "data": given.data},
            answered_by=given.answered_by,
            answered_at=now_sql(),
        )
        .returning(approvals.c.approval_id)
    )
    return rows.scalar() is not None


async def answers(connection: AsyncConnection, execution_ids: Collection[str]) -> dict[str, list[GivenAnswer]]:
    """Return the answers of each execution, the newest last."""
    found: dict[str, list[GivenAnswer]] = {execution_id: [] for execution_id in execution_ids}
    rows = await connection.execute(
        select(approvals)
        .where(approvals.c.execution_id.in_(execution_ids), approvals.c.answered_at.is_not(None))
        .order_by(approvals.c.answered_at)
    )
    for row in rows:
        given = GivenAnswer(row.approval_id, row.answer["choice"], row.answer["data"], row.answered_by)
        found[row.execution_id].append(given)
    return found


async def forget_expired(connection: AsyncConnection, execution_ids: Collection[str]) -> None:
    """Delete the unanswered questions whose time has expired."""
    if execution_ids:
        await connection.execute(
            delete(approvals)
            .where(approvals.c.execution_id.in_(execution_ids), approvals.c.answered_at.is_(None))
            .where(approvals.c.expires_at <= now_sql())
        )


async def forget(connection: AsyncConnection, execution_ids: Collection[str]) -> None:
    """Delete the questions of ended executions."""
    await connection.execute(delete(approvals).where(approvals.c.execution_id.in_(execution_ids)))


async def _owners(connection: AsyncConnection, execution_ids: Collection[str]) -> dict[str, str]:
    columns = (execution_control.c.execution_id, execution_control.c.owner_id)
    rows = await connection.execute(select(*columns).where(columns[0].in_(execution_ids)))
    return {row.execution_id: row.owner_id for row in rows}


def _read(row: Row[Any]) -> Approval:
    return Approval(**{name: getattr(row, name) for name in _QUESTION})
