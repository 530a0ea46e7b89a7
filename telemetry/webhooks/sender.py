"""The sender posts due deliveries, signed by the Standard Webhooks scheme, and records the outcomes.

One task reads and writes the queue; each attempt runs in a task of its own. If the sender dies, its claims expire and
another sender continues: delivery is at least once, with the same id and the same bytes.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version

import httpx2
import orjson
from standardwebhooks import Webhook

from engine.database.database import Database
from engine.database.failures import DATABASE_ERRORS
from engine.documents.retry_after import parse_retry_after
from engine.errors import Unavailable
from engine.security.egress import Egress, UrlNotAllowed, open_client, read_reply
from engine.security.redaction import MIN_SECRET_CHARACTERS, error_text, redact, url_values
from engine.security.sealing import Sealer
from telemetry.health import DeliveryHealth
from telemetry.webhooks.queue import (
    UNSENT_SECONDS,
    Claimed,
    Outcome,
    Policy,
    Settled,
    claim,
    hand_back,
    is_anything_due,
    settle,
)

TIMEOUT_SECONDS = 20.0
POLL_SECONDS = 0.25
"""How often an idle sender polls the queue, reading one index entry per endpoint."""

SLOTS = 64
"""How many deliveries one sender has in flight."""

KEPT_REPLY_BYTES = 2 * 1024
_STOP_SECONDS = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Answer:
    """The response of an endpoint, or why there was none."""

    http_status: int | None = None
    error: str | None = None
    reply: bytes = b""
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class _Request:
    """What is sent besides the body, opened."""

    url: str
    headers: Mapping[str, str]
    secrets: tuple[str, ...]
    """What an answer or an error may repeat and no record may keep."""


class Sender:
    """Sends the due deliveries of all owners, from any process. `run` needs supervision."""

    def __init__(
        self,
        database: Database,
        egress: Egress,
        sealer: Sealer,
        *,
        policy: Policy | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        poll_seconds: float = POLL_SECONDS,
        tls: ssl.SSLContext | None = None,
        health: DeliveryHealth | None = None,
    ) -> None:
        self._database = database
        self._egress = egress
        self._sealer = sealer
        self._policy = policy or Policy(lease_seconds=2 * timeout_seconds + 20)
        self._timeout_seconds = timeout_seconds
        self._poll_seconds = poll_seconds
        self._tls = tls
        self._news = asyncio.Event()
        self._flying: dict[asyncio.Task[Outcome | None], Claimed] = {}
        self._outcomes: list[Outcome] = []
        self._unsent: list[Claimed] = []
        self.health = health or DeliveryHealth()

    async def run(self) -> None:
        """Send until cancelled, then hand back deliveries in flight. Waits while the database is unavailable."""
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(self._client())
            stack.push_async_callback(self._stop)
            while True:
                self._news.clear()
                if await self._turn(client):
                    await self._sleep()
                else:
                    await asyncio.sleep(4 * self._poll_seconds)

    async def send_one(self, delivery_id: str) -> None:
        """Make one attempt for a delivery, unless another sender has claimed it. Raises `Unavailable`."""
        async with self._database.begin() as connection:
            claimed = await claim(connection, self._policy, 1, only=delivery_id)
        async with self._client() as client:
            outcomes = [await self._send(client, one) for one in claimed]
        async with self._database.begin() as connection:
            await settle(connection, self._policy, [outcome for outcome in outcomes if outcome is not None])
            await hand_back(connection, [one for one, outcome in zip(claimed, outcomes, strict=True) if not outcome])

    def _client(self) -> httpx2.AsyncClient:
        return open_client(self._egress, timeout_seconds=self._timeout_seconds, tls=self._tls)

    async def _sleep(self) -> None:
        try:
            async with asyncio.timeout(self._poll_seconds):
                await self._news.wait()
        except TimeoutError:
            return

    async def _turn(self, client: httpx2.AsyncClient) -> bool:
        """Record outcomes and claim due deliveries. False if the database fails; outcomes are then kept."""
        outcomes, unsent = list(self._outcomes), list(self._unsent)
        try:
            async with self._database.read() as connection:
                if not (outcomes or unsent or await is_anything_due(connection)):
                    return True
            async with self._database.begin() as connection:
                settled = await settle(connection, self._policy, outcomes)
                await hand_back(connection, unsent, wait_seconds=UNSENT_SECONDS)
                claimed = await claim(connection, self._policy, SLOTS - len(self._flying))
        except DATABASE_ERRORS as error:
            log.warning(
                "the queue of webhook deliveries could not be read or written; trying again",
                extra={"error": str(error)},
            )
            return False
        del self._outcomes[: len(outcomes)], self._unsent[: len(unsent)]
        self._count(settled)
        for one in claimed:
            self._start(client, one)
        return True

    def _start(self, client: httpx2.AsyncClient, one: Claimed) -> None:
        task = asyncio.create_task(self._send(client, one), name=f"delivery {one.delivery_id}")
        self._flying[task] = one
        self.health.in_flight = len(self._flying)
        task.add_done_callback(self._landed)

    def _landed(self, task: "asyncio.Task[Outcome | None]") -> None:
        one = self._flying.pop(task)
        self.health.in_flight = len(self._flying)
        if task.cancelled() or (error := task.exception()) is not None:
            self._unsent.append(one)
            if not task.cancelled():
                log.error(
                    "a webhook delivery failed with an unexpected error",
                    extra={"delivery_id": one.delivery_id},
                    exc_info=error,
                )
        elif (outcome := task.result()) is not None:
            self._outcomes.append(outcome)
        else:
            self._unsent.append(one)
        self._news.set()

    def _count(self, settled: Settled) -> None:
        health = self.health
        health.attempts_delivered += settled.attempts_delivered
        health.attempts_failed += settled.attempts_failed
        health.delivered += settled.delivered
        health.failed += settled.failed
        health.endpoints_disabled += settled.disabled

    async def _stop(self) -> None:
        """Hand back deliveries in flight, so that another sender need not wait until the claims expire."""
        tasks = list(self._flying)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(_STOP_SECONDS), self._database.begin() as connection:
                settled = await settle(connection, self._policy, self._outcomes)
                await hand_back(connection, self._unsent)
        except (*DATABASE_ERRORS, TimeoutError) as error:
            log.warning(
                "webhook deliveries in flight could not be handed back; they are sent again when their claims expire",
                extra={"error": str(error)},
            )
            return
        self._outcomes.clear()
        self._unsent.clear()
        self._count(settled)

    async def _send(self, client: httpx2.AsyncClient, one: Claimed) -> Outcome | None:
        """Make one attempt; null if the request could not be signed."""
        began = time.perf_counter()
        try:
            request = self._request(one)
        except Unavailable as error:
            log.warning("a webhook could not be signed: %s", error.message, extra={"endpoint_id": one.endpoint_id})
            return None
        answer = await self._post(client, request, one)
        reply = answer.reply[:KEPT_REPLY_BYTES].decode("utf-8", "replace").replace("\0", "\ufffd")
        return Outcome(
            delivery_id=one.delivery_id,
            claim=one.claim,
            at=one.at,
            duration_ms=round((time.perf_counter() - began) * 1000),
            http_status=answer.http_status,
            error=None if answer.error is None else error_text(answer.error, *request.secrets),
            reply=redact(reply, *request.secrets) or None,
            retry_after_seconds=answer.retry_after_seconds,
        )

    async def _post(self, client: httpx2.AsyncClient, request: "_Request", one: Claimed) -> _Answer:
        try:
            async with (
                asyncio.timeout(self._timeout_seconds),
                client.stream("POST", request.url, content=one.body, headers=request.headers) as response,
            ):
                return await _read(response, one.at)
        except (TimeoutError, httpx2.TimeoutException):
            return _Answer(error=f"no response within {self._timeout_seconds:g} s")
        except UrlNotAllowed as refusal:
            return _Answer(error=refusal.message)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            return _Answer(error=str(error) or type(error).__name__)

    def _request(self, one: Claimed) -> "_Request":
        """The owner's headers, overridden by those of Standard Webhooks. Raises `SealBroken`, `SecretKeyMissing`."""
        url = self._sealer.open(one.sealed_url) if one.sealed_url else one.url
        own: dict[str, str] = orjson.loads(self._sealer.open(one.sealed_headers)) if one.sealed_headers else {}
        webhook_id = f"evt_{one.event_id}"
        body = one.body.decode()
        secrets = [self._sealer.open(sealed) for sealed in one.sealed_secrets]
        headers = own | {
            "content-type": "application/json",
            "accept-encoding": "identity",
            "user-agent": f"spanloom/{version('spanloom')}",
            "webhook-id": webhook_id,
            "webhook-timestamp": str(int(one.at.timestamp())),
            "webhook-signature": " ".join(Webhook(secret).sign(webhook_id, one.at, body) for secret in secrets),
        }
        told = [*own.values(), *secrets, *([url, *url_values(url)] if one.sealed_url else [])]
        return _Request(url, headers, tuple(value for value in told if len(value) >= MIN_SECRET_CHARACTERS))


async def _read(response: httpx2.Response, now: datetime) -> _Answer:
    """Read the response; the status decides, even if the body breaks off."""
    status = response.status_code
    try:
        reply = await read_reply(response)
    except httpx2.HTTPError:
        reply = b""
    if 200 <= status < 300:
        return _Answer(status, reply=reply)
    error = f"status {status}" + (" (redirects are not followed)" if 300 <= status < 400 else "")
    return _Answer(status, error, reply, parse_retry_after(response.headers.get("retry-after"), now))
