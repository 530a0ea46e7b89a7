"""Each invariant has twins here: the books of a good run with one thing broken, and the checker says which."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import text

from engine.database.database import Database
from engine.testing.models import Fail, Say
from telemetry.store.tables import spans
from tests.both_modes import add_endpoint
from tests.faults.clients import ASK
from tests.faults.invariants import Evidence, by_invariant, violations
from tests.faults.ledger import Ledger
from tests.faults.webhooks import WebhookLedger
from tests.telemetry.receiver import Call
from tests.workflow_runner import WorkflowRunner, request, workflow_runner


@dataclass(slots=True)
class Kept:
    """A database with three executions in it, and the ledgers of those around it."""

    database: Database
    ids: list[str]
    clients: Ledger
    webhooks: WebhookLedger

    @property
    def evidence(self) -> Evidence:
        return Evidence(clients=self.clients, webhooks=self.webhooks.ledger, paths={"endpoint": "/a"})

    async def sql(self, statement: str, **values: object) -> None:
        """Break something."""
        async with self.database.begin() as connection:
            await connection.execute(text(statement), values)

    async def found(self) -> set[str]:
        """Which invariants do not hold."""
        return set(by_invariant(await violations(self.database, self.evidence)))


@pytest.fixture
async def kept(migrated_sqlite_url: str, tmp_path: Path) -> AsyncIterator[Kept]:
    """What a good run leaves: two executions completed, one failed, each told to one endpoint."""
    async with workflow_runner(migrated_sqlite_url, keep_signals=False) as runner:
        await add_endpoint(runner.runtime.database)
        clients, webhooks = Ledger(tmp_path / "clients"), WebhookLedger(Ledger(tmp_path / "webhooks"))
        ids = await run_three(runner, clients)
        made = Kept(runner.runtime.database, ids, clients, webhooks)
        await deliver(made)
        yield made


async def run_three(runner: WorkflowRunner, clients: Ledger) -> list[str]:
    """Run them, and write down what their clients were told."""
    ids: list[str] = []
    for script in ([Say("one")], [Say("two")], [Fail("auth")]):
        result = await runner.engine(script).execute(request({"kind": "graph", "graph": ASK}))
        clients.write_now(what="accepted", number=len(ids), id=result.execution_id)
        clients.write_now(what="read", id=result.execution_id, status="running", attempt=1, owner="default")
        clients.write_now(what="read", id=result.execution_id, status=str(result.status), attempt=1)
        clients.write_now(what="ended", number=len(ids), id=result.execution_id, status=str(result.status))
        ids.append(result.execution_id)
    return ids


async def deliver(kept: Kept) -> None:
    """Every delivery reaches its receiver."""
    async with kept.database.read() as connection:
        rows = (await connection.execute(text("SELECT event_id, body FROM webhook_events"))).all()
    for row in rows:
        kept.webhooks.answer(Call(f"evt_{row.event_id}", "/a", bytes(row.body), {}, {}))
    delivered = "state = 'delivered', next_attempt_at = NULL, ended_at = created_at, attempts = 1, last_status = 204"
    await kept.sql(f"UPDATE webhook_deliveries SET {delivered}")


async def test_good_books_break_nothing(kept: Kept) -> None:
    assert await violations(kept.database, kept.evidence) == []


_COPIED = ", ".join(column.name for column in spans.c if column.name != "span_id")
SECOND_CALL = f"""
INSERT INTO spans (span_id, {_COPIED}) SELECT 'ffffffffffffffff', {_COPIED}
FROM spans WHERE kind = 'model' AND execution_id = :id
"""
OPEN_CALL = """
INSERT INTO call_reservations (execution_id, attempt, call_id, provider, model, upper_tokens, at)
SELECT id, 1, 'f000000000000000', 'scripted', 'scripted-1', 5, queued_at FROM executions WHERE id = :id
"""
WAITING = """
UPDATE webhook_deliveries SET state = 'pending', next_attempt_at = created_at, ended_at = NULL WHERE execution_id = :id
"""
TWINS = {
    "a record is lost": ("DELETE FROM executions WHERE id = :id", {"I1", "I5"}),
    "an execution never ends": (
        "UPDATE execution_control SET status = 'running', finished_at = NULL WHERE execution_id = :id",
        {"I2", "I4"},
    ),
    "an end is told that was not decided": (
        "UPDATE webhook_events SET event_type = 'workflow.execution.failed' WHERE execution_id = :id",
        {"I2"},
    ),
    "a record without an accept": ("DELETE FROM execution_control WHERE execution_id = :id", {"I1", "I2", "I3"}),
    "a record says something else": ("UPDATE executions SET status = 'cancelled' WHERE id = :id", {"I4", "I5"}),
    "a roll-up counts twice": (
        "UPDATE execution_rollups SET executions_completed = executions_completed + 1 WHERE executions_completed > 0",
        {"I5"},
    ),
    "an event is not told": ("DELETE FROM webhook_events WHERE execution_id = :id", {"I6"}),
    "a body is changed": ("UPDATE webhook_events SET body = CAST('{}' AS BLOB) WHERE execution_id = :id", {"I6"}),
    "a delivery is given up": ("UPDATE webhook_deliveries SET state = 'failed' WHERE execution_id = :id", {"I6"}),
    "a record costs more": ("UPDATE executions SET cost_nano_usd = cost_nano_usd + 1 WHERE id = :id", {"I7"}),
    "a call is booked twice": (SECOND_CALL, {"I5", "I7", "I10"}),
    "a row has another owner": ("UPDATE spans SET owner_id = 'other' WHERE execution_id = :id", {"I8"}),
    "a model call is left open": (OPEN_CALL, {"I7", "I9"}),
    "a delivery waits": (WAITING, {"I9"}),
    "a signal is kept aside": (
        """INSERT INTO dead_letter (id, consumer, signal, reason, at)
        SELECT id, 'records', '{}', 'no reason', queued_at FROM executions WHERE id = :id""",
        {"I9"},
    ),
    "a span is lost": (
        "DELETE FROM spans WHERE execution_id = :id AND kind = 'node' AND node_type = 'end'",
        {"I10"},
    ),
}


@pytest.mark.usefixtures("books_left_open")
@pytest.mark.parametrize("name", list(TWINS))
async def test_each_thing_that_is_broken_is_found(kept: Kept, name: str) -> None:
    statement, expected = TWINS[name]
    await kept.sql(statement, id=kept.ids[0])
    assert await kept.found() >= expected


Tell = Callable[[Kept], None]
TALES: dict[str, tuple[Tell, str]] = {
    "a client was told of an execution nobody knows": (
        lambda kept: kept.clients.write_now(what="accepted", number=9, id="nobody"),
        "I1",
    ),
    "a client was told another end": (
        lambda kept: kept.clients.write_now(what="ended", number=0, id=kept.ids[0], status="failed"),
        "I2",
    ),
    "a read went back": (
        lambda kept: kept.clients.write_now(what="read", id=kept.ids[0], status="running", attempt=1),
        "I2",
    ),
    "a read told another end": (
        lambda kept: kept.clients.write_now(what="read", id=kept.ids[0], status="cancelled", attempt=1),
        "I2",
    ),
    "somebody else has read it": (
        lambda kept: kept.clients.write_now(
            what="read", id=kept.ids[0], status="completed", attempt=1, owner="somebody"
        ),
        "I8",
    ),
    "something was sent that nobody ordered": (
        lambda kept: kept.webhooks.ledger.write_now(
            what="delivered", id="evt_stray", path="/a", body="", checksum=0, answer="204"
        ),
        "I6",
    ),
}


@pytest.mark.parametrize("name", list(TALES))
async def test_each_tale_that_does_not_fit_is_found(kept: Kept, name: str) -> None:
    tell, expected = TALES[name]
    tell(kept)
    assert expected in await kept.found()


async def test_a_lost_attempt_may_be_read_again_as_running(kept: Kept) -> None:
    for status, attempt in (("running", 1), ("paused", 1), ("running", 2), ("completed", 2), ("completed", 2)):
        kept.clients.write_now(what="read", id="other", status=status, attempt=attempt)
    assert await kept.found() == set()


async def test_a_call_that_no_receiver_took_is_not_delivered(kept: Kept) -> None:
    kept.webhooks.ledger.file.unlink()
    assert await kept.found() == {"I6"}
