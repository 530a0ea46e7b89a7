"""The full audit of the books: for every execution, record totals = sums over its model calls = its roll-ups.

It also finds ended executions that still have a lease, an open approval or a model call in flight.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from sqlalchemy import Table, select
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.database import Database
from engine.store import control_reads
from engine.usage import TOKEN_FIELDS
from telemetry.records.rollups import Deltas, from_records
from telemetry.store.tables import (
    ROLLUP_KEYS,
    ROLLUP_LATEST,
    ROLLUP_SUMS,
    execution_rollups,
    execution_rollups_daily,
    executions,
    spans,
)


async def check_books(database: Database) -> list[str]:
    """Every difference as a sentence that names the execution or roll-up row; empty if the books agree."""
    async with database.read() as connection:
        deltas = await from_records(connection)
        return [
            *await _check_records(connection),
            *await _check_left_overs(connection),
            *await _check_rollups(connection, execution_rollups, "bucket_hour", deltas),
            *await _check_rollups(connection, execution_rollups_daily, "bucket_day", deltas.by_day()),
        ]


@dataclass(slots=True)
class _Calls:
    """Sums over the spans of one execution."""

    span_ids: list[str] = field(default_factory=list)
    calls: int = 0
    unpriced: int = 0
    cost_nano_usd: int = 0
    waste_nano_usd: int = 0
    tokens: dict[str, int] = field(default_factory=dict)

    def add(self, span: RowMapping) -> None:
        self.span_ids.append(span["span_id"])
        if span["kind"] != "model":
            return
        self.calls += 1
        for name in TOKEN_FIELDS:
            if span[name] is not None:
                self.tokens[name] = self.tokens.get(name, 0) + span[name]
        if span["cost_nano_usd"] is None:
            self.unpriced += 1
        else:
            self.cost_nano_usd += span["cost_nano_usd"]
            self.waste_nano_usd += span["cost_nano_usd"] if span["waste"] is not None else 0

    def expected(self) -> dict[str, object]:
        """The values the record should have, by column."""
        tokens = {name: self.tokens.get(name) for name in TOKEN_FIELDS}
        ids = "".join(sorted(self.span_ids)).encode()
        return {
            **tokens,
            "model_calls": self.calls,
            "unpriced_calls": self.unpriced,
            "waste_nano_usd": self.waste_nano_usd,
            "cost_nano_usd": None if self.calls and self.unpriced == self.calls else self.cost_nano_usd,
            "spans_expected": len(self.span_ids),
            "spans_stored": len(self.span_ids),
            "seal": hashlib.sha256(ids).hexdigest(),
        }


async def _check_records(connection: AsyncConnection) -> list[str]:
    """Compare ended executions with the spans of all their attempts."""
    by_execution: dict[str, _Calls] = {}
    for span in (await connection.execute(select(spans))).mappings():
        by_execution.setdefault(span["execution_id"], _Calls()).add(span)
    ended = select(executions).where(executions.c.completed_at.is_not(None))
    records = (await connection.execute(ended)).mappings().all()
    return [
        difference for record in records for difference in _compare(record, by_execution.get(record["id"], _Calls()))
    ]


async def _check_left_overs(connection: AsyncConnection) -> list[str]:
    """Find leases and rows that only unfinished executions may have."""
    found = [
        f"execution {id_} has ended but still has a lease" for id_ in await control_reads.leased_after_end(connection)
    ]
    return found + [
        f"execution {left.execution_id} has ended but still has rows in {left.table}"
        for left in await control_reads.leftovers(connection)
    ]


def _compare(record: RowMapping, calls: _Calls) -> Iterable[str]:
    for column, expected in calls.expected().items():
        if record[column] != expected:
            yield f"execution {record['id']}: {column} is {record[column]}, its spans add up to {expected}"
    parts = [record[name] for name in record if name.startswith("time_") and name != "time_to_first_token_ms"]
    if sum(parts) != record["duration_ms"]:
        duration = record["duration_ms"]
        yield f"execution {record['id']}: its times add up to {sum(parts)} ms, its duration is {duration} ms"


async def _check_rollups(connection: AsyncConnection, table: Table, bucket: str, expected: Deltas) -> list[str]:
    columns = (bucket, *ROLLUP_KEYS, *ROLLUP_SUMS, *ROLLUP_LATEST)
    keys = 1 + len(ROLLUP_KEYS)
    stored = {
        tuple(row[:keys]): tuple(row[keys:])
        for row in await connection.execute(select(*(table.c[name] for name in columns)))
    }
    wanted = {row[:keys]: row[keys:] for row in expected.rows()}
    return [
        f"{table.name} {tuple(map(str, key))}: {name} is {is_}, records add up to {should_be}"
        for key in sorted(stored.keys() | wanted.keys(), key=str)
        for name, is_, should_be in zip(
            columns[keys:], stored.get(key, _NOTHING), wanted.get(key, _NOTHING), strict=True
        )
        if is_ != should_be
    ]


_NOTHING = (*(0 for _ in ROLLUP_SUMS), *(None for _ in ROLLUP_LATEST))
