"""A real server with clients, a model server and a webhook receiver, each of which keeps books of its own.

When the faults have stopped, `settled` waits until nothing is open any more, and `violations` reads all the books.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import RowMapping, Select, select, text

from engine.database.database import Database
from engine.store.definitions import save_definition
from engine.store.tables import execution_control
from telemetry.store.tables import dead_letter, outbox, webhook_deliveries
from telemetry.webhooks.payloads import TYPES
from tests.faults.clients import AGENT, SLUG, Clients, clients
from tests.faults.figures import Figure, short_or_long
from tests.faults.invariants import Evidence, Violation, violations
from tests.faults.ledger import Ledger
from tests.faults.provider import Latency, Provider, provider
from tests.faults.server_process import ServerProcess, server_process
from tests.faults.webhooks import WebhookLedger
from tests.telemetry.receiver import Receiver, receiving

LEASE_SECONDS = short_or_long(3.0, 30.0)
RENEW_SECONDS = short_or_long(1.0, 10.0)
SWEEP_SECONDS = short_or_long(0.5, 5.0)
TERMINAL_SECONDS = 40.0
"""The p95 of the time from a crash to the end of what ran in it."""

FAST = {
    "SPANLOOM_LEASE_SECONDS": "1.5",
    "SPANLOOM_LEASE_RENEW_SECONDS": "0.5",
    "SPANLOOM_SWEEP_SECONDS": "0.3",
}
"""Settings with which a lost process is noticed soon, in the long form too."""

SETTLED_SECONDS = 120.0
SECRET_KEY = "a key that all servers of one test share"


@dataclass(slots=True)
class World:
    """The running parts."""

    servers: list[ServerProcess]
    models: Provider
    callers: Clients
    receiver: Receiver
    hooks: WebhookLedger
    database: Database
    paths: dict[str, str] = field(default_factory=dict)

    @property
    def server(self) -> ServerProcess:
        """The first server, or the only one."""
        return self.servers[0]

    @property
    def evidence(self) -> Evidence:
        """All books except the server's own."""
        return Evidence(self.callers.ledger, self.models.ledger, self.hooks.ledger, self.paths)

    async def violations(self) -> list[Violation]:
        """All broken invariants."""
        return await violations(self.database, self.evidence)

    async def settled(self) -> None:
        """Nothing is open, owed or on its way. What is after `SETTLED_SECONDS` stands in the error."""
        try:
            async with asyncio.timeout(SETTLED_SECONDS):
                while True:
                    if not await self._unfinished():
                        return
                    await asyncio.sleep(0.1)
        except TimeoutError as error:
            left = [*await self._unfinished(), *await self._transactions()]
            raise AssertionError("\n".join([f"not settled after {SETTLED_SECONDS:g} s:", *map(_said, left)])) from error

    async def ends(self) -> dict[str, "End"]:
        """How and when each execution ended."""
        async with self.database.read() as connection:
            rows = await connection.execute(select(execution_control))
            return {
                row["execution_id"]: End(**{each.name: row[each.name] for each in fields(End)})
                for row in rows.mappings()
            }

    async def _unfinished(self) -> list[RowMapping]:
        """Some of what is open, owed or to be tried again."""
        async with self.database.read() as connection:
            return [row for each in _UNFINISHED for row in (await connection.execute(each.limit(_SHOWN))).mappings()]

    async def _transactions(self) -> list[RowMapping]:
        """Who is in one, on PostgreSQL."""
        if self.database.dialect_name == "sqlite":
            return []
        async with self.database.read() as connection:
            statement = text("SELECT * FROM pg_stat_activity WHERE xact_start IS NOT NULL")
            return list((await connection.execute(statement)).mappings())


_UNFINISHED: list[Select[Any]] = [
    select(execution_control).where(execution_control.c.finished_at.is_(None)),
    select(webhook_deliveries).where(webhook_deliveries.c.state == "pending"),
    select(outbox.c.id, outbox.c.shipped_at),
    select(dead_letter).where(dead_letter.c.due_at.is_not(None)),
]
_SHOWN = 20
"""Of each."""


def _said(row: RowMapping) -> str:
    return str({name: value for name, value in row.items() if value is not None})


@dataclass(frozen=True, slots=True)
class End:
    """An execution's row in control."""

    status: str
    on_lost: str
    attempt: int
    accepted_at: datetime
    finished_at: datetime | None
    result: Mapping[str, object] | None

    @property
    def seconds(self) -> float:
        """From acceptance to the end, by the database's clock."""
        assert self.finished_at is not None
        return (self.finished_at - self.accepted_at).total_seconds()

    def during(self, moments: Sequence[datetime]) -> list[datetime]:
        """Those between acceptance and the end."""
        assert self.finished_at is not None
        return [at for at in moments if self.accepted_at < at < self.finished_at]

    @property
    def error_type(self) -> str | None:
        """Why it failed."""
        value = (self.result or {}).get("error_type")
        return value if isinstance(value, str) else None


@asynccontextmanager
async def world(
    url: str,
    folder: Path,
    figure: Figure,
    *,
    latency: Latency | None = None,
    servers: int = 1,
    roles: str | None = None,
    faults: Sequence[Sequence[str]] = (),
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[World]:
    """Servers over a migrated database and everybody around them; one endpoint wants to hear of everything.

    `faults` are those of each server, see `tests.faults.faulty_serve`.
    """
    async with AsyncExitStack() as stack:
        models = await stack.enter_async_context(provider(folder / "provider.ledger", latency))
        receiver = await stack.enter_async_context(receiving())
        hooks = WebhookLedger(Ledger(folder / "webhooks.ledger"), figure.chance("webhooks"))
        receiver.answer = hooks.answer
        environment = {
            **models.environment(folder),
            **_SETTINGS,
            "SPANLOOM_EGRESS_ALLOW": urlsplit(receiver.url).netloc,
        }
        database = await stack.enter_async_context(Database(url))
        await _store_agent(database)
        started = [
            await stack.enter_async_context(
                server_process(
                    folder,
                    url,
                    roles=roles,
                    name=f"server{number}",
                    faults=faults[number] if number < len(faults) else (),
                    environment={**environment, **(settings or {})},
                )
            )
            for number in range(servers)
        ]
        callers = await stack.enter_async_context(clients(started[0].url, folder / "clients.ledger"))
        made = World(started, models, callers, receiver, hooks, database)
        await _add_endpoint(made)
        yield made


async def _store_agent(database: Database) -> None:
    async with database.begin() as connection:
        await save_definition(connection, "default", SLUG, SLUG, AGENT, "hash of the agent")


async def _add_endpoint(made: World) -> None:
    wish = {"url": f"{made.receiver.url}/hooks", "events": list(TYPES)}
    answer = await made.callers.http.post("/v1/webhooks/endpoints", json=wish)
    assert answer.status_code == 201, answer.text
    document = answer.json()
    made.paths[document["id"]] = "/hooks"
    made.receiver.secrets["/hooks"] = document["secret"]


_SETTINGS = {
    "SPANLOOM_LEASE_SECONDS": f"{LEASE_SECONDS}",
    "SPANLOOM_LEASE_RENEW_SECONDS": f"{RENEW_SECONDS}",
    "SPANLOOM_SWEEP_SECONDS": f"{SWEEP_SECONDS}",
    "SPANLOOM_WEBHOOK_SCHEDULE": ",".join(["0", *["0.2"] * 40]),
    "SPANLOOM_WEBHOOK_TIMEOUT_SECONDS": "2",
    "SPANLOOM_SECRET_KEY": SECRET_KEY,
}


def seconds_to_end(ends: Mapping[str, End], crashes: Sequence[datetime]) -> list[float]:
    """For each execution that was open at a crash: from the last one before its end until then."""
    waits = []
    for end in ends.values():
        assert end.finished_at is not None
        if during := end.during(crashes):
            waits.append((end.finished_at - max(during)).total_seconds())
    return waits


def p95(numbers: Sequence[float]) -> float:
    """The 95th percentile; 0 without values."""
    ordered = sorted(numbers)
    return ordered[int(0.95 * (len(ordered) - 1))] if ordered else 0.0
