"""The schedule of attempts, the limits per endpoint, and endpoints that are disabled."""

from collections import Counter
from datetime import UTC, datetime, timedelta

from sqlalchemy import update

from telemetry.store.tables import webhook_endpoints
from telemetry.webhooks.endpoints import (
    Endpoint,
)
from telemetry.webhooks.queue import (
    DISABLE_FAILURES,
    IN_FLIGHT,
    SCHEDULE_SECONDS,
    Outcome,
    Policy,
    claim,
    settle,
)
from tests.telemetry.receiver import Reply
from tests.telemetry.webhooks.post import Post


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


async def test_days_of_failures_disable_an_endpoint_but_only_after_ten(post: Post) -> None:
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


async def test_one_success_resets_the_failures_of_an_endpoint(post: Post) -> None:
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


async def test_four_are_in_flight_per_endpoint_and_one_after_five_failures(post: Post) -> None:
    well, failing = await post.endpoint("/a"), await post.endpoint("/b")
    await _fail_since(post, failing, hours=0, failures=5)
    await post.tell(20, well, failing)
    async with post.database.begin() as connection:
        claimed = await claim(connection, Policy(), 64)
        assert Counter(one.endpoint_id for one in claimed) == {well.id: 4, failing.id: 1}
        assert await claim(connection, Policy(), 64) == []
