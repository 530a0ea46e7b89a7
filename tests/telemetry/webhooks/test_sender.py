"""Deliveries reach their receiver at least once, signed, with the same id and bytes, whatever goes wrong on the way."""

import asyncio
import os
import signal
import sys
import zlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from sqlalchemy import select, text, update
from standardwebhooks import Webhook, WebhookVerificationError

from engine.database.base import database_time
from engine.database.database import Database
from engine.errors import Unavailable
from engine.security.addresses import Exceptions
from engine.security.egress import Egress
from engine.security.sealing import Sealer
from telemetry.store.tables import webhook_deliveries, webhook_endpoints
from telemetry.webhooks.consumer import NewDelivery, insert_deliveries, insert_events
from telemetry.webhooks.deliveries import (
    Delivery,
    DeliveryFilter,
    get_delivery,
    list_deliveries,
    read_attempts,
    redeliver,
    redeliver_range,
    send_test,
)
from telemetry.webhooks.endpoints import (
    Changes,
    Endpoint,
    EndpointDisabled,
    NewEndpoint,
    change,
    create,
    get,
    remove,
    rotate_secret,
)
from telemetry.webhooks.payloads import TYPES
from telemetry.webhooks.queue import (
    DISABLE_FAILURES,
    IN_FLIGHT,
    SCHEDULE_SECONDS,
    Outcome,
    Policy,
    claim,
    is_anything_due,
    read_queue,
    settle,
)
from telemetry.webhooks.sender import Sender, retry_after
from tests.telemetry.receiver import Call, Receiver, Reply, receiving

KEY = "a key of the tests"
SEALER = Sealer(lambda: [KEY])
OWNER = "default"
FAST = Policy(schedule_seconds=(0, *(0.01,) * 40), lease_seconds=5.0)
ONCE = Policy(schedule_seconds=(0,), lease_seconds=5.0)


@dataclass(slots=True)
class Post:
    """A database, a receiver, and endpoints that lead to it."""

    database: Database
    receiver: Receiver
    secrets: dict[str, str] = field(default_factory=dict)
    """The first secret of each endpoint."""
    events: dict[str, bytes] = field(default_factory=dict)
    """The body of each event, by `webhook-id`."""

    async def endpoint(self, path: str = "/a", *, url: str | None = None, **headers: str) -> Endpoint:
        """An endpoint at a path of the receiver, which knows its secret."""
        new = NewEndpoint(url or self.receiver.url + path, TYPES, headers=headers)
        async with self.database.begin() as connection:
            made, secret = await create(connection, OWNER, new, SEALER)
        self.receiver.secrets[path] = self.secrets[made.id] = secret
        return made

    async def tell(self, count: int, *endpoints: Endpoint, at: datetime | None = None) -> list[str]:
        """Make events, each with a delivery for these endpoints; the delivery ids."""
        async with self.database.begin() as connection:
            now = await database_time(connection)
            made: list[NewDelivery] = []
            for _ in range(count):
                number = len(self.events)
                event_id = f"00000000-0000-7000-8000-{number:012}"
                body = orjson.dumps({"type": TYPES[0], "data": {"number": number, **_SUBJECT}})
                self.events[f"evt_{event_id}"] = body
                await insert_events(connection, [(event_id, OWNER, None, TYPES[0], at or now, body)])
                made += [NewDelivery(event_id, one.id, OWNER, None, TYPES[0], now) for one in endpoints]
            await insert_deliveries(connection, made)
        return [one.id for one in made]

    @asynccontextmanager
    async def sender(self, policy: Policy = FAST, *, egress: Egress | None = None) -> AsyncIterator[Sender]:
        """A sender that runs."""
        sender = self.make_sender(policy, egress=egress)
        running = asyncio.create_task(sender.run(), name="sender")
        try:
            yield sender
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def make_sender(self, policy: Policy = FAST, *, egress: Egress | None = None, seconds: float = 2.0) -> Sender:
        """A sender that does not run yet."""
        return Sender(
            self.database,
            egress or self.receiver.egress(),
            SEALER,
            policy=policy,
            timeout_seconds=seconds,
            poll_seconds=0.02,
        )

    async def drained(self) -> None:
        """Nothing is pending any more."""
        async with asyncio.timeout(60):
            while True:
                if await self.backlog() == 0:
                    return
                await asyncio.sleep(0.02)

    async def more_calls(self, count: int) -> None:
        """So many more calls have come."""
        wanted = len(self.receiver.calls) + count
        await self.receiver.until(lambda: len(self.receiver.calls) >= wanted)

    async def backlog(self) -> int:
        """Pending deliveries."""
        async with self.database.read() as connection:
            return (await read_queue(connection)).pending

    async def delivery(self, id: str) -> Delivery:
        """As it is."""
        async with self.database.read() as connection:
            return await get_delivery(connection, OWNER, id)

    async def state(self, endpoint: Endpoint) -> Endpoint:
        """As it is."""
        async with self.database.read() as connection:
            return await get(connection, OWNER, endpoint.id)

    def check(self, *endpoints: str) -> None:
        """Every event reached each endpoint; each call had the bytes of its event."""
        assert all(self.events[call.id] == call.body for call in self.receiver.calls)
        reached = {(call.path, call.id) for call in self.receiver.accepted}
        assert {(path, id_) for path in endpoints for id_ in self.events} <= reached


_SUBJECT = {"source": "template", "workflow_name": "answer", "template_id": "t-1"}


@pytest.fixture
async def post(database: Database) -> AsyncIterator[Post]:
    """A database and a receiver."""
    async with receiving() as receiver:
        yield Post(database, receiver)


async def test_a_delivery_is_signed_and_says_what_it_is(post: Post) -> None:
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


async def test_the_owners_headers_do_not_take_the_place_of_ours(post: Post) -> None:
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


async def test_what_fails_is_repeated_until_it_arrives_with_the_same_id_and_bytes(post: Post) -> None:
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


async def test_an_endpoint_that_does_not_answer_is_not_waited_for(post: Post) -> None:
    post.receiver.answer = lambda call: Reply(hangs=True)
    [id_] = await post.tell(1, await post.endpoint())
    sender = post.make_sender(ONCE, seconds=0.2)
    await sender.send_one(id_)
    delivery = await post.delivery(id_)
    assert (delivery.state, delivery.last_status, delivery.last_error) == ("failed", None, "no response within 0.2 s")


async def test_nobody_there_is_said(post: Post) -> None:
    url = "http://127.0.0.1:9/a"
    [id_] = await post.tell(1, await post.endpoint(url=url))
    await post.make_sender(ONCE, egress=Egress(Exceptions.parse(["127.0.0.1:9"]))).send_one(id_)
    delivery = await post.delivery(id_)
    assert delivery.state == "failed"
    assert delivery.last_error


async def test_gone_disables_at_once_and_open_deliveries_fail(post: Post) -> None:
    post.receiver.answer = lambda call: Reply(410)
    made = await post.endpoint()
    ids = await post.tell(10, made)
    async with post.sender() as sender:
        await post.drained()
        assert sender.health.endpoints_disabled == 1
    now = await post.state(made)
    assert (now.status, now.disabled_reason) == ("disabled", "gone")
    assert {(await post.delivery(id_)).state for id_ in ids} == {"failed"}
    assert len(post.receiver.calls) <= IN_FLIGHT


async def test_days_of_nothing_but_failures_disable_but_only_after_ten(post: Post) -> None:
    made = await post.endpoint()
    policy = Policy(schedule_seconds=(0,), disable_hours=120)
    await _fail_since(post, made, hours=121, failures=8)
    await _settle_one(post, made, policy, 500)
    assert (await post.state(made)).status == "active"
    await _settle_one(post, made, policy, 500)
    now = await post.state(made)
    assert (now.status, now.disabled_reason, now.failures_in_row) == ("disabled", "failing", DISABLE_FAILURES)


async def test_a_short_time_of_failures_does_not_disable(post: Post) -> None:
    made = await post.endpoint()
    await _fail_since(post, made, hours=119, failures=500)
    await _settle_one(post, made, Policy(schedule_seconds=(0,)), 500)
    assert (await post.state(made)).status == "active"


async def test_one_success_makes_an_endpoint_well(post: Post) -> None:
    made = await post.endpoint()
    await _fail_since(post, made, hours=500, failures=500)
    await _settle_one(post, made, Policy(), 200)
    now = await post.state(made)
    assert (now.status, now.failing_since, now.failures_in_row) == ("active", None, 0)


async def _fail_since(post: Post, endpoint: Endpoint, *, hours: int, failures: int) -> None:
    since = datetime.now(UTC) - timedelta(hours=hours)
    async with post.database.begin() as connection:
        await connection.execute(
            update(webhook_endpoints)
            .where(webhook_endpoints.c.id == endpoint.id)
            .values(failing_since=since, failures_in_row=failures)
        )


async def _settle_one(post: Post, endpoint: Endpoint, policy: Policy, status: int, **more: float) -> str:
    """One more event, claimed and answered with this status; its delivery."""
    await post.tell(1, endpoint)
    async with post.database.begin() as connection:
        [one] = await claim(connection, policy, 1)
        outcome = Outcome(one.delivery_id, one.claim, datetime.now(UTC), 1, status, None, None, **more)
        await settle(connection, policy, [outcome])
    return one.delivery_id


async def test_the_schedule_is_that_of_the_documentation_and_varies_by_a_fifth() -> None:
    assert SCHEDULE_SECONDS == (0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
    policy = Policy()
    assert policy.wait_seconds(0, None) == 0
    waits = [policy.wait_seconds(2, None) or 0 for _ in range(500)]
    assert min(waits) >= 240
    assert max(waits) <= 360
    assert max(waits) - min(waits) > 60
    assert policy.wait_seconds(10, 5.0) is None


async def test_retry_after_lengthens_a_step_but_never_beyond_a_day(post: Post) -> None:
    made = await post.endpoint()
    policy = Policy()
    for asked, low, high in ((0.0, 3, 7), (600.0, 595, 605), (10**7, 86_395, 86_405)):
        id_ = await _settle_one(post, made, policy, 429, retry_after_seconds=asked)
        due = (await post.delivery(id_)).next_attempt_at
        assert due is not None
        assert low <= (due - datetime.now(UTC)).total_seconds() <= high


async def test_the_header_is_heeded_on_its_way_through(post: Post) -> None:
    post.receiver.answer = lambda call: Reply(429, {"Retry-After": "1000"})
    [id_] = await post.tell(1, await post.endpoint())
    await post.make_sender().send_one(id_)
    due = (await post.delivery(id_)).next_attempt_at
    assert due is not None
    assert (due - datetime.now(UTC)).total_seconds() > 900


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        ("Tue, 24 Nov 2026 12:01:00 GMT", 60.0),
        ("Tue, 24 Nov 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("1" * 50, 111_111_111.0),
    ],
)
def test_retry_after_is_read_in_both_forms(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, datetime(2026, 11, 24, 12, 0, tzinfo=UTC)) == seconds


async def test_four_are_in_flight_per_endpoint_and_one_after_five_failures(post: Post) -> None:
    well, failing = await post.endpoint("/a"), await post.endpoint("/b")
    await _fail_since(post, failing, hours=0, failures=5)
    await post.tell(20, well, failing)
    async with post.database.begin() as connection:
        claimed = await claim(connection, Policy(), 64)
        assert Counter(one.endpoint_id for one in claimed) == {well.id: 4, failing.id: 1}
        assert await claim(connection, Policy(), 64) == []


async def test_no_more_than_four_ever_reach_an_endpoint_at_once(post: Post) -> None:
    await post.tell(40, await post.endpoint())
    async with post.sender(), post.sender():
        await post.drained()
    assert 1 < post.receiver.most_in_flight <= IN_FLIGHT
    assert Counter(call.id for call in post.receiver.calls).most_common(1)[0][1] == 1
    post.check("/a")


async def test_an_endpoint_that_hangs_holds_up_nobody_else(post: Post) -> None:
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
async def test_senders_that_are_killed_lose_nothing(post: Post, database_url: str) -> None:
    ends = [await post.endpoint(path) for path in ("/a", "/b", "/c")]
    post.receiver.answer = lambda call: Reply(500 if len(post.receiver.calls) % 3 == 0 else 204)
    await post.tell(60, *ends)
    for _ in range(5):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _KILLED, database_url, post.receiver.url.removeprefix("http://"), KEY
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


async def test_secrets_and_headers_are_sealed_in_the_database(post: Post) -> None:
    made = await post.endpoint("/a", authorization="canary-header")
    async with post.database.read() as connection:
        row = (await connection.execute(select(webhook_endpoints))).mappings().one()
    kept = str(dict(row))
    assert "canary-header" not in kept
    assert post.secrets[made.id].removeprefix("whsec_") not in kept
    assert SEALER.open(row["sealed_secret"]) == post.secrets[made.id]


async def test_a_new_key_opens_what_an_older_one_sealed() -> None:
    sealed = SEALER.seal("whsec_x")
    assert Sealer(lambda: ["newer", KEY]).open(sealed) == "whsec_x"
    with pytest.raises(Unavailable, match="SPANLOOM_SECRET_KEY"):
        Sealer(lambda: ["newer"]).open(sealed)
    with pytest.raises(Unavailable, match="SPANLOOM_SECRET_KEY"):
        Sealer(list).seal("x")


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


async def test_a_test_says_only_which_endpoint_it_is_for(post: Post) -> None:
    made = await post.endpoint()
    async with post.database.begin() as connection:
        delivery = await send_test(connection, OWNER, made.id)
    await post.make_sender(ONCE).send_one(delivery.id)
    [call] = post.receiver.calls
    assert (call.document["type"], call.document["data"]) == ("webhook.test", {"endpoint_id": made.id})


async def test_a_removed_endpoint_takes_its_deliveries_with_it(post: Post) -> None:
    made = await post.endpoint()
    [id_] = await post.tell(1, made)
    async with post.database.begin() as connection:
        [one] = await claim(connection, ONCE, 1)
        await remove(connection, OWNER, made.id)
        await settle(connection, ONCE, [Outcome(id_, one.claim, datetime.now(UTC), 1, 200, None, None)])
        assert (await connection.execute(select(webhook_deliveries))).all() == []


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


async def test_trouble_with_the_database_is_waited_for_and_nothing_is_forgotten(post: Post) -> None:
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
