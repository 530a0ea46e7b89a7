"""Deliveries reach their receiver at least once, signed, with the same id and bytes, whatever goes wrong on the way."""

import asyncio
import os
import signal
import sys
import zlib
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from standardwebhooks import Webhook, WebhookVerificationError

from engine.database.database import Database
from engine.errors import Unavailable
from engine.security.addresses import Exceptions
from engine.security.egress import Egress
from engine.security.sealing import Sealer
from telemetry.webhooks.deliveries import (
    read_attempts,
)
from telemetry.webhooks.endpoints import (
    rotate_secret,
)
from telemetry.webhooks.queue import (
    IN_FLIGHT,
    Outcome,
    Policy,
    claim,
    is_anything_due,
    settle,
)
from telemetry.webhooks.sender import Sender
from tests.telemetry.receiver import Call, Reply
from tests.telemetry.webhooks.post import KEY, ONCE, OWNER, SEALER, Post


async def test_a_delivery_is_signed_and_names_its_event(post: Post) -> None:
    made = await post.endpoint("/a", **{"X-Own": "value-1"})
    [id_] = await post.tell(1, made)
    async with post.sender(ONCE) as sender:
        await post.drained()
        assert (sender.health.delivered, sender.health.attempts_delivered) == (1, 1)
    [call] = post.receiver.calls
    assert call.id in post.events
    assert (call.headers["x-own"], call.headers["content-type"]) == ("value-1", "application/json")
    assert call.headers["user-agent"].startswith("spanloom/")
    delivery = await post.delivery(id_)
    assert (delivery.state, delivery.attempts, delivery.last_status, delivery.last_error) == ("delivered", 1, 204, None)


async def test_the_owners_headers_do_not_override_ours(post: Post) -> None:
    await post.tell(1, await post.endpoint("/a", **{"webhook-signature": "v1,AAAA"}))
    async with post.sender(ONCE):
        await post.drained()
    assert len(post.receiver.accepted) == 1


async def test_both_secrets_sign_during_a_rotation_and_one_after_it(post: Post) -> None:
    made = await post.endpoint()
    async with post.database.begin() as connection:
        secret, _ = await rotate_secret(connection, OWNER, made.id, 1, SEALER)
    await post.tell(1, made)
    async with post.sender(ONCE):
        await post.drained()
        [call] = post.receiver.calls
        assert len(call.headers["webhook-signature"].split(" ")) == 2
        for either in (secret, post.secrets[made.id]):
            Webhook(either).verify(call.body, call.headers)
        async with post.database.begin() as connection:
            secret, _ = await rotate_secret(connection, OWNER, made.id, 0, SEALER)
        post.receiver.secrets["/a"] = secret
        await post.tell(1, made)
        await post.drained()
    call = post.receiver.calls[-1]
    assert len(call.headers["webhook-signature"].split(" ")) == 1
    with pytest.raises(WebhookVerificationError):
        Webhook(post.secrets[made.id]).verify(call.body, call.headers)


async def test_a_failed_delivery_is_retried_with_the_same_id_and_bytes(post: Post) -> None:
    ends = [await post.endpoint(path) for path in ("/a", "/b", "/c")]
    seen: Counter[tuple[str, str]] = Counter()

    def answer(call: Call) -> Reply:
        seen[call.path, call.id] += 1
        return Reply(500) if (zlib.crc32(call.id.encode()) + seen[call.path, call.id]) % 10 < 3 else Reply(200)

    post.receiver.answer = answer
    await post.tell(60, *ends)
    async with post.sender():
        await post.drained()
    assert any(call not in post.receiver.accepted for call in post.receiver.calls)
    post.check("/a", "/b", "/c")


async def test_a_delivery_that_never_arrives_is_given_up_when_the_schedule_ends(post: Post) -> None:
    post.receiver.answer = lambda call: Reply(503, body=b"out of order \x00\xff" + b"x" * 5_000)
    made = await post.endpoint()
    [id_] = await post.tell(1, made)
    async with post.sender(Policy(schedule_seconds=(0, 0.01, 0.01))) as sender:
        await post.drained()
        assert (sender.health.failed, sender.health.attempts_failed) == (1, 3)
    delivery = await post.delivery(id_)
    assert (delivery.state, delivery.attempts, delivery.last_error) == ("failed", 3, "status 503")
    async with post.database.read() as connection:
        attempts = await read_attempts(connection, delivery)
    assert [(one.number, one.http_status) for one in attempts] == [(1, 503), (2, 503), (3, 503)]
    reply = attempts[0].reply
    assert reply is not None
    assert reply.startswith("out of order \ufffd\ufffdx")
    assert len(reply) == 2_048
    assert (await post.state(made)).failures_in_row == 3


async def test_a_redirect_is_a_failure_and_is_not_followed(post: Post) -> None:
    post.receiver.answer = lambda call: Reply(307, {"Location": "/b"})
    [id_] = await post.tell(1, await post.endpoint())
    async with post.sender(ONCE):
        await post.drained()
    assert [call.path for call in post.receiver.calls] == ["/a"]
    assert (await post.delivery(id_)).last_error == "status 307 (redirects are not followed)"


async def test_an_endpoint_that_does_not_respond_times_out(post: Post) -> None:
    post.receiver.answer = lambda call: Reply(hangs=True)
    [id_] = await post.tell(1, await post.endpoint())
    sender = post.make_sender(ONCE, seconds=0.2)
    await sender.send_one(id_)
    delivery = await post.delivery(id_)
    assert (delivery.state, delivery.last_status, delivery.last_error) == ("failed", None, "no response within 0.2 s")


async def test_a_refused_connection_is_recorded_as_the_error(post: Post) -> None:
    url = "http://127.0.0.1:9/a"
    [id_] = await post.tell(1, await post.endpoint(url=url))
    await post.make_sender(ONCE, egress=Egress(Exceptions.parse(["127.0.0.1:9"]))).send_one(id_)
    delivery = await post.delivery(id_)
    assert delivery.state == "failed"
    assert delivery.last_error


async def test_a_retry_after_header_delays_the_next_attempt(post: Post) -> None:
    post.receiver.answer = lambda call: Reply(429, {"Retry-After": "1000"})
    [id_] = await post.tell(1, await post.endpoint())
    await post.make_sender().send_one(id_)
    due = (await post.delivery(id_)).next_attempt_at
    assert due is not None
    assert (due - datetime.now(UTC)).total_seconds() > 900


async def test_no_more_than_four_ever_reach_an_endpoint_at_once(post: Post) -> None:
    await post.tell(40, await post.endpoint())
    async with post.sender(), post.sender():
        await post.drained()
    assert 1 < post.receiver.most_in_flight <= IN_FLIGHT
    assert Counter(call.id for call in post.receiver.calls).most_common(1)[0][1] == 1
    post.check("/a")


async def test_an_endpoint_that_hangs_delays_no_other_endpoint(post: Post) -> None:
    post.receiver.answer = lambda call: Reply(hangs=call.path == "/a")
    await post.tell(20, await post.endpoint("/a"), await post.endpoint("/b"))
    async with post.sender():
        await post.receiver.until(lambda: len(post.receiver.accepted) == 20)
    assert {call.path for call in post.receiver.accepted} == {"/b"}


async def test_a_claim_runs_out_and_another_sender_goes_on(post: Post) -> None:
    made = await post.endpoint()
    [id_] = await post.tell(1, made)
    short = Policy(schedule_seconds=(0, 0, 0), lease_seconds=0.1)
    async with post.database.begin() as connection:
        [lost] = await claim(connection, short, 1)
    async with post.database.begin() as connection:
        assert await claim(connection, short, 1) == []
    await asyncio.wait_for(_until_due(post.database), 5)
    async with post.database.begin() as connection:
        [mine] = await claim(connection, Policy(), 1)
        assert (mine.event_id, mine.body) == (lost.event_id, lost.body)
        late = Outcome(id_, lost.claim, datetime.now(UTC), 1, 500, "status 500", None)
        await settle(connection, short, [late])
    held = await post.delivery(id_)
    assert (held.state, held.attempts) == ("pending", 1)
    async with post.database.begin() as connection:
        assert await claim(connection, short, 1) == []
        await settle(connection, short, [replace(late, claim=mine.claim, http_status=200, error=None)])
    assert (await post.delivery(id_)).state == "delivered"


async def _until_due(database: Database) -> None:
    while True:
        async with database.read() as connection:
            if await is_anything_due(connection):
                return
        await asyncio.sleep(0.02)


async def test_a_sender_that_is_stopped_hands_back_what_is_in_flight(post: Post) -> None:
    post.receiver.answer = lambda call: Reply(hangs=True)
    await post.tell(4, await post.endpoint())
    async with post.sender(Policy(lease_seconds=600)):
        await post.receiver.until(lambda: post.receiver.in_flight == 4)
    post.receiver.answer = lambda call: Reply()
    async with post.sender(Policy(lease_seconds=600)):
        await post.drained()
    post.check("/a")


async def test_senders_that_are_stopped_again_and_again_lose_nothing(post: Post) -> None:
    ends = [await post.endpoint(path) for path in ("/a", "/b", "/c")]
    post.receiver.answer = lambda call: Reply(500 if len(post.receiver.calls) % 3 == 0 else 204)
    for stop in range(20):
        await post.tell(2, *ends)
        async with post.sender():
            await post.more_calls(1 + stop % 3)
    async with post.sender():
        await post.drained()
    post.check("/a", "/b", "/c")


_KILLED = """
import asyncio, sys
from engine.security.addresses import Exceptions
from engine.security.egress import Egress
from engine.security.sealing import Sealer
from engine.database.database import Database
from telemetry.webhooks.sender import Sender
from telemetry.webhooks.queue import Policy

async def main(url, place, key):
    policy = Policy(schedule_seconds=(0, *(0.01,) * 40), lease_seconds=0.5)
    async with Database(url) as database:
        await Sender(database, Egress(Exceptions.parse([place])), Sealer(lambda: [key]),
                     policy=policy, timeout_seconds=0.4, poll_seconds=0.02).run()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.slow
async def test_senders_that_are_killed_lose_nothing(post: Post, migrated_url: str) -> None:
    ends = [await post.endpoint(path) for path in ("/a", "/b", "/c")]
    post.receiver.answer = lambda call: Reply(500 if len(post.receiver.calls) % 3 == 0 else 204)
    await post.tell(60, *ends)
    for _ in range(5):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _KILLED, migrated_url, post.receiver.url.removeprefix("http://"), KEY
        )
        await post.more_calls(8)
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
    async with post.sender():
        await post.drained()
    post.check("/a", "/b", "/c")


async def test_a_lost_key_sends_nothing_unsigned_and_counts_against_nobody(post: Post) -> None:
    made = await post.endpoint()
    [id_] = await post.tell(1, made)
    other = Sender(post.database, post.receiver.egress(), Sealer(lambda: ["another key"]), policy=ONCE)
    await other.send_one(id_)
    assert post.receiver.calls == []
    assert ((await post.delivery(id_)).state, (await post.state(made)).failures_in_row) == ("pending", 0)
    await post.make_sender(ONCE).send_one(id_)
    post.check("/a")


async def test_a_new_key_opens_what_an_older_one_sealed() -> None:
    sealed = SEALER.seal("whsec_x")
    assert Sealer(lambda: ["newer", KEY]).open(sealed) == "whsec_x"
    with pytest.raises(Unavailable, match="SPANLOOM_SECRET_KEY"):
        Sealer(lambda: ["newer"]).open(sealed)
    with pytest.raises(Unavailable, match="SPANLOOM_SECRET_KEY"):
        Sealer(list).seal("x")


async def test_a_sender_waits_for_the_database_and_keeps_its_outcomes(post: Post) -> None:
    made = await post.endpoint()
    async with post.sender(ONCE) as sender:
        async with post.database.begin() as connection:
            await connection.execute(text("ALTER TABLE webhook_attempts RENAME TO hidden"))
        [id_] = await post.tell(1, made)
        await post.receiver.until(lambda: len(post.receiver.calls) == 1)
        assert (await post.delivery(id_)).state == "pending"
        async with post.database.begin() as connection:
            await connection.execute(text("ALTER TABLE hidden RENAME TO webhook_attempts"))
        await post.drained()
        assert sender.health.delivered == 1
    assert len(post.receiver.calls) == 1
