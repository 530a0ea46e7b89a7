"""Executions for the tests of the store: accepted, claimed, paused and ended in transactions of their own."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import monotonic

from engine.database.database import Database
from engine.identity import ExecutionIdentity
from engine.ledger import Acceptance, Claim, Finish, Pause, Root
from engine.result import Approval, Status
from engine.store.acceptance import Admission, accept_many
from engine.store.claims import claim_many
from engine.store.control import ControlRow, get
from engine.store.conversations import StoredConversations
from engine.store.endings import finish_many, pause_many
from engine.store.leases import Lease, owned
from engine.store.tables import execution_control

STARTED = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)
ROOT = Root("t1", "s1", "p1", STARTED)
SUBJECT = ExecutionIdentity(
    execution_id="e1",
    attempt=1,
    owner="ann",
    workflow_name="chat",
    source="chat",
    trigger="api",
    streaming=False,
    queued_ns=1_800_000_000_000_000_000,
    started_ns=1_800_000_000_000_000_000,
    correlation_id="r1",
    graph_hash="sha256:1",
    conversation_id="c1",
)
CHAT = Acceptance(
    identity=SUBJECT,
    status=Status.RUNNING,
    request={"source": {"kind": "chat"}, "input": {"message": "Hi"}},
    graph=b'{"name":"\xc3\xbc"}',
    user_message={"id": "m1", "role": "user", "content": "Hi"},
    root=ROOT,
    on_lost="fail",
)
PLAIN = replace(
    CHAT, identity=replace(SUBJECT, source="template", workflow_name="rag", conversation_id=None), user_message=None
)
QUEUED = replace(PLAIN, status=Status.QUEUED, root=None)
OLD = monotonic() - 3_600
HERE, THERE, ADMISSION = Lease("here", began=OLD), Lease("there", began=OLD), Admission()


def of(acceptance: Acceptance, execution_id: str, **identity: object) -> Acceptance:
    """Return the acceptance for another execution."""
    return replace(acceptance, identity=replace(acceptance.identity, execution_id=execution_id, **identity))  # type: ignore[arg-type]  # the callers name the fields


def ended(execution_id: str, attempt: int = 1) -> Finish:
    return Finish(execution_id=execution_id, attempt=attempt, status=Status.COMPLETED, result={"response": "Hello"})


async def accept_all(
    database: Database, acceptances: Sequence[Acceptance], admission: Admission = ADMISSION, lease: Lease = HERE
) -> dict[str, str]:
    """Accept executions in one transaction; returns the error codes of the refused ones by execution id."""
    async with database.begin() as connection:
        refused = await accept_many(connection, acceptances, lease, admission)
    return {id_: refusal.code for id_, refusal in refused.items()}


async def finish_all(database: Database, finishes: Sequence[Finish], lease: Lease = HERE) -> set[str]:
    """Finish executions as the journal does; returns the ids that this lease does not own."""
    async with database.begin() as connection:
        own = await owned(connection, {item.execution_id for item in finishes}, lease.owner)
        winners = [item for item in finishes if own.get(item.execution_id) == item.attempt]
        await finish_many(connection, winners, with_unfinished_rows=[item.execution_id for item in winners])
    return {item.execution_id for item in finishes} - {item.execution_id for item in winners}


async def claim_all(database: Database, lease: Lease = THERE, limit: int = 100) -> list[Claim]:
    async with database.begin() as connection:
        return await claim_many(connection, lease, limit)


async def change(database: Database, execution_id: str, **values: object) -> None:
    """Change columns of a control row, for example to let time pass."""
    async with database.begin() as connection:
        await connection.execute(
            execution_control.update().where(execution_control.c.execution_id == execution_id).values(**values)
        )


async def row_of(database: Database, execution_id: str, owner: str = "ann") -> ControlRow:
    async with database.read() as connection:
        row = await get(connection, execution_id, owner)
    assert row is not None
    return row


async def history_of(database: Database, conversation_id: str) -> list[object]:
    history = await StoredConversations(database).history(conversation_id, "ann", 50)
    return [message["content"] for message in history.messages] if history else []


def question(**changes: object) -> Approval:
    document = {
        "approval_id": "a1",
        "node_id": "ask",
        "path": "ask",
        "prompt": "Pay?",
        "choices": ["yes", "no"],
        "expires_at": STARTED,
    }
    return Approval.model_validate(document | changes)


async def pause(database: Database, **changes: object) -> None:
    await accept_all(database, [PLAIN])
    waiting = Pause("e1", 1, {"status": "paused"}, [question()], STARTED + timedelta(days=36_500))
    async with database.begin() as connection:
        await pause_many(connection, [replace(waiting, **changes)])  # type: ignore[arg-type]  # the callers name them
