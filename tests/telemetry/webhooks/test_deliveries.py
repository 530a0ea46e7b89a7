"""Deliveries are listed, sent again and tested."""

from datetime import UTC, datetime, timedelta

import pytest

from telemetry.webhooks.deliveries import (
    DeliveryFilter,
    list_deliveries,
    redeliver,
    redeliver_range,
    send_test,
)
from telemetry.webhooks.endpoints import (
    Changes,
    EndpointDisabled,
    change,
)
from tests.telemetry.receiver import Reply
from tests.telemetry.webhooks.post import ONCE, OWNER, SEALER, Post


async def test_redelivery_has_the_same_id_and_bytes(post: Post) -> None:
    [id_] = await post.tell(1, await post.endpoint())
    async with post.sender(ONCE):
        await post.drained()
        async with post.database.begin() as connection:
            await redeliver(connection, OWNER, id_)
        await post.drained()
    first, second = post.receiver.calls
    assert (first.id, first.body) == (second.id, second.body)
    assert (await post.delivery(id_)).attempts == 2


async def test_a_range_sends_what_failed_and_what_was_missed_while_disabled(post: Post) -> None:
    made = await post.endpoint()
    post.receiver.answer = lambda call: Reply(
        500 if call.body.endswith(b'"t-1"}}') and b'"number":1,' in call.body else 200
    )
    await post.tell(3, made)
    async with post.sender(ONCE):
        await post.drained()
    await post.tell(2)
    await post.tell(1, at=datetime.now(UTC) - timedelta(days=3))
    post.receiver.answer = lambda call: Reply()
    post.receiver.calls.clear()
    since, until = datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC) + timedelta(hours=1)
    async with post.database.begin() as connection:
        assert await redeliver_range(connection, OWNER, made.id, since, until, "failed") == 3
    async with post.sender(ONCE):
        await post.drained()
        assert sorted(call.id[-1] for call in post.receiver.calls) == ["1", "3", "4"]
        async with post.database.begin() as connection:
            assert await redeliver_range(connection, OWNER, made.id, since, until, "all") == 5
        await post.drained()
    assert len(post.receiver.calls) == 8
    assert all(post.events[call.id] == call.body for call in post.receiver.calls)


async def test_a_disabled_endpoint_is_sent_nothing_until_it_is_active_again(post: Post) -> None:
    made = await post.endpoint()
    [id_] = await post.tell(1, made)
    async with post.database.begin() as connection:
        await change(connection, OWNER, made.id, Changes(status="disabled"), SEALER)
        for refused in (
            redeliver(connection, OWNER, id_),
            send_test(connection, OWNER, made.id),
            redeliver_range(connection, OWNER, made.id, datetime.now(UTC), datetime.now(UTC), "all"),
        ):
            with pytest.raises(EndpointDisabled):
                await refused
    assert (await post.delivery(id_)).last_error == "the endpoint is disabled"
    await post.tell(1, made)  # by a consumer that had read that the endpoint was active
    async with post.sender(ONCE):
        await post.drained()
        assert post.receiver.calls == []
        async with post.database.begin() as connection:
            await change(connection, OWNER, made.id, Changes(status="active"), SEALER)
            await redeliver(connection, OWNER, id_)
        await post.drained()
    assert len(post.receiver.accepted) == 1


async def test_a_test_delivery_names_only_its_endpoint(post: Post) -> None:
    made = await post.endpoint()
    async with post.database.begin() as connection:
        delivery = await send_test(connection, OWNER, made.id)
    await post.make_sender(ONCE).send_one(delivery.id)
    [call] = post.receiver.calls
    assert (call.document["type"], call.document["data"]) == ("webhook.test", {"endpoint_id": made.id})


async def test_deliveries_are_listed_newest_first_in_pages_for_their_owner(post: Post) -> None:
    first, second = await post.endpoint("/a"), await post.endpoint("/b")
    ids = [id_ for _ in range(3) for id_ in await post.tell(1, first, second)]
    async with post.database.read() as connection:
        found, end = await list_deliveries(connection, OWNER, DeliveryFilter(), limit=4)
        rest, last = await list_deliveries(connection, OWNER, DeliveryFilter(), limit=4, after=end)
        assert {one.id for one in (*found, *rest)} == set(ids)
        assert (len(found), len(rest), last) == (4, 2, None)
        assert [one.created_at for one in (*found, *rest)] == sorted(
            (one.created_at for one in (*found, *rest)), reverse=True
        )
        of_one, _ = await list_deliveries(connection, OWNER, DeliveryFilter(endpoint=first.id, state="pending"))
        assert len(of_one) == 3
        assert (await list_deliveries(connection, "other", DeliveryFilter()))[0] == []
