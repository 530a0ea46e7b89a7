"""P15 measures what commits cost: the chat of two model calls, one at a time and 64, on SQLite with FULL sync.

The anchor is our journal with a commit after each model call, too, as if no call could wait for the next decision.
"""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

from bench.harness import Effort, Goal, Measured, Report, Row, Runner, Variant, Work, check_equal, compare, side_by_side
from bench.workflows import OURS, engine, request, run_ours
from engine.database import migrations
from engine.database.database import Database
from engine.graph import JsonObject, Spend
from engine.ledger import Checkpoint
from telemetry.journal.journal import Journal
from telemetry.pipeline.pipeline import Pipeline
from telemetry.reconcile.audit import check_books
from telemetry.records.consumer import Records
from telemetry.sdk.providers import build_telemetry

CONCURRENT = 64
EXECUTIONS: dict[Effort, int] = {"smoke": 2, "short": 64, "full": 192}
_EACH, _AT_END, _AFTER_TOO = "each_call", "at_end", "a commit after each call, too"


class _Impatient(Journal):
    async def checkpoint(self, checkpoint: Checkpoint) -> None:
        await super().checkpoint(replace(checkpoint, can_wait=False))


@asynccontextmanager
async def _ours(spend: Spend, concurrent: int, journal_type: type[Journal] = Journal) -> AsyncIterator[Runner]:
    with tempfile.TemporaryDirectory() as name:
        url = f"sqlite:///{Path(name) / 'ours.db'}"
        await migrations.upgrade(url)
        telemetry = build_telemetry()
        async with Database(url, synchronous="FULL") as database, journal_type(database, _pipeline()) as journal:
            telemetry.add(journal.spans, journal.events)
            wanted = request(_chat(spend))
            async with engine(telemetry, journal) as made:

                async def run(number: int) -> Work:
                    return await run_ours(made, wanted)

                async def run_all(executions: int) -> Work:
                    before = journal.health.commits
                    work = await side_by_side(run, executions, concurrent)
                    commits = (journal.health.commits - before) / executions
                    return Work(work.answer, work.spans, {"commits": commits})

                yield run_all
            assert await check_books(database) == []


def _pipeline() -> Pipeline:
    return Pipeline([Records()])


def _chat(spend: Spend) -> JsonObject:
    return OURS["chat"] | {"durability": "none", "limits": {"spend": spend}}


def _variants() -> dict[str, Variant]:
    made: dict[str, Variant] = {}
    for concurrent in (1, CONCURRENT):
        made[f"{_AFTER_TOO}; {concurrent} at a time"] = partial(_ours, "each_call", concurrent, _Impatient)
        made[f"{_EACH}; {concurrent} at a time"] = partial(_ours, "each_call", concurrent)
        made[f"{_AT_END}; {concurrent} at a time"] = partial(_ours, "at_end", concurrent)
    return made


VARIANTS = _variants()


def _wall_ratio(its: Measured, other: Measured) -> float:
    return median(ours.wall_us / theirs.wall_us for ours, theirs in zip(its.samples, other.samples, strict=True))


def measure(effort: Effort) -> Report:
    """Measure commits, wall and CPU time of one execution."""
    found = compare("p15_commits", VARIANTS, executions=EXECUTIONS[effort], effort=effort)
    check_equal(found, spans={})
    rows: list[Row] = []
    for name, its in found.items():
        anchor = found[f"{_AFTER_TOO}; {name.split('; ')[1]}"]
        rows.append(
            {
                "variant": name,
                "commits": its.figure("commits"),
                "wall µs": its.wall_us,
                "CPU µs": its.cpu_us,
                "wall against the anchor": _wall_ratio(its, anchor),
                "ratio of CPU": its.ratio(anchor),
            }
        )
    goals = [
        Goal("commits of a chat with two calls", found[f"{_EACH}; 1 at a time"].figure("commits"), 4),
        Goal("the same with at_end", found[f"{_AT_END}; 1 at a time"].figure("commits"), 2),
    ]
    return Report("P15", "commits of a chat with two model calls, SQLite with FULL sync", rows, goals)
