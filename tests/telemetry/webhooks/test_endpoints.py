"""Endpoints keep their secrets sealed, and take their deliveries with them."""

from datetime import UTC, datetime

from sqlalchemy import select

from telemetry.store.tables import webhook_deliveries, webhook_endpoints
from telemetry.webhooks.endpoints import (
    remove,
)
from telemetry.webhooks.queue import (
    Outcome,
    claim,
    settle,
)
from tests.telemetry.webhooks.post import ONCE, OWNER, SEALER, Post


async def test_secrets_and_headers_are_sealed_in_the_database(post: Post) -> None:
    made = await post.endpoint("/a", authorization="canary-header")
    async with post.database.read() as connection:
        row = (await connection.execute(select(webhook_endpoints))).mappings().one()
    kept = str(dict(row))
    assert "canary-header" not in kept
    assert post.secrets[made.id].removeprefix("whsec_") not in kept
    assert SEALER.open(row["sealed_secret"]) == post.secrets[made.id]


async def test_a_removed_endpoint_takes_its_deliveries_with_it(post: Post) -> None:
    made = await post.endpoint()
    [id_] = await post.tell(1, made)
    async with post.database.begin() as connection:
        [one] = await claim(connection, ONCE, 1)
        await remove(connection, OWNER, made.id)
        await settle(connection, ONCE, [Outcome(id_, one.claim, datetime.now(UTC), 1, 200, None, None)])
        assert (await connection.execute(select(webhook_deliveries))).all() == []
