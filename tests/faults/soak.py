"""What goes wrong in the soak: connections are cut, servers freeze and die, the disk is full, the Collector away.

A fault takes a few seconds and then returns; what it broke may still be on its way back. The first server is never
killed, so that its memory can be watched.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from statistics import median

from engine.graph import JsonObject
from tests.engine.harness import graph
from tests.faults.connections import connected, cut_connections
from tests.faults.server_process import ServerProcess
from tests.faults.world import World
from tests.services.collector.server import Collector

LEASE_SECONDS = 6.0
LONGEST_SECONDS = LEASE_SECONDS + 3.0
"""A freeze is shorter or longer than a lease."""

HOSTILE = (
    "endless",
    "endless-reasoning",
    "huge-reply",
    "many-calls",
    "gzip-bomb",
    "malformed",
    "nested",
    "cut",
    "redirect",
)
"""Attacks of `tests.faults.hostile_provider`."""

_DISK = """
CREATE TABLE disk (is_full boolean NOT NULL);
INSERT INTO disk VALUES (false);
CREATE FUNCTION need_space() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT is_full FROM disk) THEN
        RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
    END IF;
    RETURN NULL;
END $$;
DO $$
DECLARE name text;
BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'disk' LOOP
        EXECUTE format(
            'CREATE TRIGGER need_space BEFORE INSERT OR UPDATE ON %I EXECUTE FUNCTION need_space()', name
        );
    END LOOP;
END $$;
"""
"""A full disk as a client of PostgreSQL sees it: what needs a new version of a row fails with 53100."""


@dataclass(slots=True)
class Faults:
    """The faults, by name."""

    around: World
    ingest: ServerProcess
    """The receiver of the Collector's signals."""
    collector: Collector
    chance: Random
    database_url: str
    attacked: set[str] = field(default_factory=set)
    """The executions that ask a hostile model."""

    @property
    def all(self) -> "dict[str, Callable[[], Awaitable[None]]]":
        """In the order in which they happen."""
        return {
            "cuts": self.cut,
            "freezes": self.freeze,
            "kills": self.kill,
            "full disks": self.fill,
            "Collectors away": self.take_away,
            "hostile models": self.ask_hostile_models,
        }

    async def cut(self) -> None:
        """End every connection to the database."""
        assert await cut_connections(self.database_url), "nobody was connected"

    async def freeze(self) -> None:
        """Freeze one of the servers."""
        victim = self.chance.choice(self.around.servers)
        victim.freeze()
        await self._while(LONGEST_SECONDS)
        victim.thaw()

    async def kill(self) -> None:
        """Kill the second server or the receiver, and start it again after a while."""
        victim = self.chance.choice([self.around.servers[1], self.ingest])
        await victim.kill()
        await self._while(LEASE_SECONDS)
        victim.launch()

    async def fill(self) -> None:
        """Let the disk be full for a while."""
        await self._set_full(True)
        await self._while(LEASE_SECONDS)
        await self._set_full(False)

    async def _set_full(self, is_full: bool) -> None:
        async with connected(self.database_url) as connection:
            await connection.execute("UPDATE disk SET is_full = $1", is_full)

    async def take_away(self) -> None:
        """Kill the Collector, and start it again after a while."""
        await asyncio.to_thread(self.collector.kill)
        await self._while(LEASE_SECONDS)
        await asyncio.to_thread(self.collector.start)

    async def ask_hostile_models(self) -> None:
        """Start executions whose models attack the service."""
        await self.ask(self.chance.sample(HOSTILE, k=4))

    async def ask(self, attacks: Iterable[str]) -> None:
        """Start an execution for each of these attacks, without waiting for any."""
        for attack in attacks:
            source: JsonObject = {"kind": "graph", "graph": asking(attack)}
            told = await self.around.callers.start(source=source, mode="async")
            if told.execution_id is not None:
                self.attacked.add(told.execution_id)

    async def _while(self, seconds: float) -> None:
        await asyncio.sleep(self.chance.uniform(0.5, seconds))


def asking(attack: str) -> JsonObject:
    """A graph that asks the hostile model of this name once."""
    node: JsonObject = {
        "id": "ask",
        "type": "model",
        "config": {"provider": "anthropic", "model": attack},
        "timeout_seconds": 5,
    }
    return graph([{**node, "stream": True}], ["start -> ask", "ask -> end"])


async def faults(around: World, ingest: ServerProcess, collector: Collector, chance: Random) -> Faults:
    """Faults around a world on PostgreSQL, all of whose tables are there."""
    made = Faults(around, ingest, collector, chance, around.server.environment["SPANLOOM_DATABASE_URL"])
    async with connected(made.database_url) as connection:
        await connection.execute(_DISK)
    return made


@dataclass(slots=True)
class Memory:
    """The resident memory of a server over time: `samples` are seconds since the first one, and MiB."""

    server: ServerProcess
    samples: list[tuple[float, float]] = field(default_factory=list)

    async def watch(self, stop: asyncio.Event, every_seconds: float) -> None:
        """Look again and again until stopped."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not stop.is_set():
            self.samples.append((loop.time() - began, self.server.resident_mib()))
            await asyncio.sleep(every_seconds)

    def mib_after(self, seconds: float) -> float:
        """The memory at that time."""
        return next(round(mib, 1) for at, mib in self.samples if at >= seconds)

    def slope_mib_per_hour(self, after_seconds: float) -> float:
        """The median slope between samples (Theil and Sen), from so many seconds on."""
        samples = [sample for sample in self.samples if sample[0] >= after_seconds]
        pairs = [(early, late) for number, early in enumerate(samples) for late in samples[number + 1 :]]
        return 3_600 * median((late[1] - early[1]) / (late[0] - early[0]) for early, late in pairs)
