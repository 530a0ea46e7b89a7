"""A database, a webhook receiver, and endpoints that lead to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

import orjson

from engine.database.base import database_time
from engine.database.database import Database
from engine.security.egress import Egress
from engine.security.sealing import Sealer
from telemetry.webhooks.consumer import NewDelivery, insert_deliveries, insert_events
from telemetry.webhooks.deliveries import (
    Delivery,
    get_delivery,
)
from telemetry.webhooks.endpoints import (
    Endpoint,
    NewEndpoint,
    create,
    get,
)
from telemetry.webhooks.payloads import TYPES
from telemetry.webhooks.queue import (
    Policy,
    read_queue,
)
from telemetry.webhooks.sender import Sender
from tests.telemetry.receiver import Receiver

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
