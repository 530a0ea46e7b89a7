"""Endpoints keep their secrets sealed, and take their deliveries with them."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import select, update

from engine.security.keys import SecretKeyMissing
from engine.security.sealing import Sealer
from telemetry.store.tables import webhook_attempts, webhook_deliveries, webhook_endpoints
from telemetry.webhooks.endpoints import (
    Changes,
    change,
    get,
    remove,
    seal_urls,
)
from telemetry.webhooks.queue import (
    Outcome,
    claim,
    settle,
)
from tests.telemetry.receiver import Reply
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


HOOK = "/a?token=canary-token&room=canary-room"


async def test_a_url_with_a_query_is_sealed_shown_masked_and_called_whole(post: Post) -> None:
    made = await post.endpoint(url=post.receiver.url + HOOK, path="/a")
    assert made.url == post.receiver.url + "/a?token=***&room=***"
    async with post.database.read() as connection:
        row = (await connection.execute(select(webhook_endpoints))).mappings().one()
    assert "canary" not in str(dict(row))
    [id_] = await post.tell(1, made)
    await post.make_sender(ONCE).send_one(id_)
    assert [call.query for call in post.receiver.calls] == ["token=canary-token&room=canary-room"]


async def test_an_answer_that_repeats_the_request_is_kept_without_its_secrets(post: Post) -> None:
    made = await post.endpoint(url=post.receiver.url + HOOK, path="/a", authorization="no shape: canary")
    post.receiver.answer = lambda call: Reply(500, body=f"{call.query} {call.headers} {post.secrets[made.id]}".encode())
    [id_] = await post.tell(1, made)
    await post.make_sender(ONCE).send_one(id_)
    async with post.database.read() as connection:
        kept = str((await connection.execute(select(webhook_attempts))).mappings().all())
    assert "webhook-id" in kept
    assert "canary" not in kept
    assert post.secrets[made.id] not in kept


async def test_the_shown_url_changes_nothing_and_another_one_is_sealed(post: Post) -> None:
    made = await post.endpoint(url=post.receiver.url + HOOK, path="/a")
    async with post.database.begin() as connection:
        same = await change(connection, OWNER, made.id, Changes(url=made.url, description="again"), SEALER)
        [sealed] = (await connection.execute(select(webhook_endpoints.c.sealed_url))).scalars()
        plain = await change(connection, OWNER, made.id, Changes(url="https://h.example/b"), SEALER)
        [unsealed] = (await connection.execute(select(webhook_endpoints.c.sealed_url))).scalars()
    assert (same.url, SEALER.open(sealed)) == (made.url, post.receiver.url + HOOK)
    assert (plain.url, unsealed) == ("https://h.example/b", None)


async def test_a_url_of_an_earlier_version_is_shown_masked_and_sealed_when_the_service_starts(post: Post) -> None:
    made = await post.endpoint()
    url = post.receiver.url + HOOK
    async with post.database.begin() as connection:
        await connection.execute(update(webhook_endpoints).values(url=url))
        assert (await get(connection, OWNER, made.id)).url == post.receiver.url + "/a?token=***&room=***"
        with pytest.raises(SecretKeyMissing):
            await seal_urls(connection, Sealer(list))
        await seal_urls(connection, SEALER)
        await seal_urls(connection, Sealer(list))  # there is nothing left to seal
        row = (await connection.execute(select(webhook_endpoints))).mappings().one()
    assert SEALER.open(row["sealed_url"]) == url
    assert row["url"] == post.receiver.url + "/a?token=***&room=***"
