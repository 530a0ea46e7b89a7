"""An execution that waits for an answer, made by the functions that a worker would call."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from engine.graph import JsonObject
from engine.ledger import Pause
from engine.result import Approval, ExecutionResult, ResultMetadata, Status
from engine.store.claims import claim_many
from engine.store.endings import pause_many
from engine.store.leases import Lease
from tests.api.harness import Service

SCORE: JsonObject = {"type": "object", "required": ["score"], "properties": {"score": {"type": "number"}}}


async def pause(service: Service, execution_id: str, *, response_schema: JsonObject | None = None) -> Approval:
    """Claim a queued execution as another process would, and pause it with a question."""
    due_at = datetime.now(UTC) + timedelta(hours=1)
    approval = Approval(
        approval_id=str(uuid4()),
        node_id="ask",
        path="ask",
        prompt="Is it good?",
        payload={"text": "Hello"},
        choices=["approved", "rejected"],
        response_schema=response_schema,
        expires_at=due_at,
    )
    result = ExecutionResult(
        execution_id=execution_id,
        status=Status.PAUSED,
        duration_ms=3,
        approvals=[approval],
        metadata=ResultMetadata(source="graph", workflow_name="custom"),
    ).model_dump(mode="json")
    async with service.runtime.database.begin() as connection:
        [claim] = await claim_many(connection, Lease("another process"), 1)
        assert claim.identity.execution_id == execution_id
        await pause_many(connection, [Pause(execution_id, 1, result, [approval], due_at, last_seq=5)])
    return approval
