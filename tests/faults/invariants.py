"""What must hold once the faults have stopped and the pipeline has drained: I1 to I10 of reliability.md.

`violations` reads the database and the ledgers and gives everything that is wrong; it asserts nothing, so that a test
with a guard removed can see what the guard is for.
"""

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from zlib import crc32

from sqlalchemy import Table, func, inspect, select
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import metadata
from engine.database.database import Database
from engine.graph import JsonObject
from engine.result import Status
from engine.store.tables import execution_control
from engine.tracing import semconv
from engine.usage import TOKEN_FIELDS
from telemetry.reconcile.audit import find_differences
from telemetry.reconcile.findings import Check, Difference
from telemetry.store.tables import (
    dead_letter,
    executions,
    outbox,
    spans,
    webhook_deliveries,
    webhook_endpoints,
    webhook_events,
)
from tests.faults.ledger import Ledger
from tests.faults.provider import INPUT_NANO_USD, OUTPUT_NANO_USD, PROVIDER

TERMINAL = frozenset(status.value for status in Status if status.is_terminal)
_RANKS = {"queued": 0, "running": 1, "paused": 1, **dict.fromkeys(TERMINAL, 2)}


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must hold and does not."""

    invariant: str
    """I1 to I10."""
    what: str
    execution_id: str | None = None

    def __str__(self) -> str:
        about = f" {self.execution_id}" if self.execution_id else ""
        return f"{self.invariant}{about}: {self.what}"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Who wrote down what. A ledger that is missing was not kept, and what it would show is not looked at."""

    clients: Ledger | None = None
    provider: Ledger | None = None
    webhooks: Ledger | None = None
    paths: Mapping[str, str] = field(default_factory=dict)
    """The path at the receiver of each endpoint, by the endpoint's id."""
    may_keep_aside: bool = False
    """Whether dead letters are expected: poison was told."""


@dataclass(frozen=True, slots=True)
class _Books:
    """Everything of the database that more than one invariant looks at."""

    control: dict[str, RowMapping]
    records: dict[str, RowMapping]
    spans: dict[str, list[RowMapping]]
    differences: Sequence[Difference]
    evidence: Evidence


async def violations(database: Database, evidence: Evidence | None = None) -> list[Violation]:
    """Everything that is wrong, in the order of the invariants."""
    differences = await find_differences(database)
    async with database.read() as connection:
        books = await _read(connection, differences, evidence or Evidence())
        found: list[Violation] = []
        for check in CHECKS.values():
            found += await check(connection, books)
    return found


def by_invariant(found: Iterable[Violation]) -> Counter[str]:
    """How many there are of each."""
    return Counter(violation.invariant for violation in found)


async def _read(connection: AsyncConnection, differences: Sequence[Difference], evidence: Evidence) -> _Books:
    control = (await connection.execute(select(execution_control))).mappings().all()
    records = (await connection.execute(select(executions))).mappings().all()
    by_execution: dict[str, list[RowMapping]] = defaultdict(list)
    for row in (await connection.execute(select(spans))).mappings():
        by_execution[row["execution_id"]].append(row)
    return _Books(
        {row["execution_id"]: row for row in control},
        {row["id"]: row for row in records},
        by_execution,
        differences,
        evidence,
    )


_Check = Callable[[AsyncConnection, _Books], Awaitable[Iterable[Violation]]]


async def _one_record_each(connection: AsyncConnection, books: _Books) -> Iterable[Violation]:
    """I1: every accepted id has exactly one record. The key is unique, so that more than one cannot be."""
    told = {str(fact["id"]) for fact in _facts(books.evidence.clients, "accepted")}
    missing = (told | books.control.keys()) - books.records.keys()
    unknown = told - books.control.keys()
    return [
        *(Violation("I1", "accepted, and there is no record", id_) for id_ in sorted(missing)),
        *(Violation("I1", "a client was told of it, control knows nothing", id_) for id_ in sorted(unknown)),
    ]


async def _one_end(connection: AsyncConnection, books: _Books) -> Iterable[Violation]:
    """I2: exactly one terminal status, and no read ever goes back."""
    open_ = [id_ for id_, row in books.control.items() if row["status"] not in TERMINAL]
    found = [Violation("I2", f"never ended, {books.control[id_]['status']}", id_) for id_ in sorted(open_)]
    found += await _terminal_events(connection, books)
    found += _told_ends(books)
    return [*found, *_reads_that_go_back(books.evidence)]


async def _terminal_events(connection: AsyncConnection, books: _Books) -> list[Violation]:
    """Somebody may have been told of two ends."""
    rows = await connection.execute(
        select(webhook_events.c.execution_id, webhook_events.c.event_type).where(
            webhook_events.c.event_type.in_(sorted(semconv.TERMINAL_EVENTS))
        )
    )
    ends: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        ends[row.execution_id].append(row.event_type)
    doubled = {id_: sorted(types) for id_, types in ends.items() if len(types) > 1}
    found = [Violation("I2", f"webhooks tell of several ends: {types}", id_) for id_, types in sorted(doubled.items())]
    for id_, types in sorted(ends.items()):
        decided = books.control[id_]["status"] if id_ in books.control else None
        if decided is not None and types[0].rpartition(".")[2] != decided:
            found.append(Violation("I2", f"webhooks tell of {types[0]}, decided was {decided}", id_))
    return found


def _told_ends(books: _Books) -> Iterator[Violation]:
    """What a client was told is what was decided."""
    for fact in _facts(books.evidence.clients, "ended"):
        id_ = str(fact["id"])
        decided = books.control[id_]["status"] if id_ in books.control else None
        if fact["status"] != decided:
            yield Violation("I2", f"its client was told {fact['status']}, decided was {decided}", id_)


def _reads_that_go_back(evidence: Evidence) -> Iterator[Violation]:
    highest: dict[str, tuple[int, int, str]] = {}
    for fact in _facts(evidence.clients, "read"):
        id_, status = str(fact["id"]), str(fact["status"])
        attempt = fact.get("attempt", 1)
        assert isinstance(attempt, int)
        rank = _RANKS[status]
        seen = (3 if rank == 2 else attempt, rank, status)
        before = highest.get(id_)
        if before is not None and (seen[:2] < before[:2] or (before[1] == 2 and before != seen)):
            yield Violation("I2", f"read as {before[2]} and then as {status}", id_)
        highest[id_] = max(seen, before) if before else seen


async def _no_record_alone(connection: AsyncConnection, books: _Books) -> Iterable[Violation]:
    """I3: no record without an accept."""
    alone = (books.records.keys() | books.spans.keys()) - books.control.keys()
    return [Violation("I3", "there is a record or a span, and it was never accepted", id_) for id_ in sorted(alone)]


async def _same_status(connection: AsyncConnection, books: _Books) -> Iterable[Violation]:
    """I4: the record's status is the decided one."""
    both = sorted(books.records.keys() & books.control.keys())
    pairs = ((id_, books.records[id_]["status"], books.control[id_]["status"]) for id_ in both)
    return [
        *(
            Violation("I4", f"recorded {recorded}, decided {decided}", id_)
            for id_, recorded, decided in pairs
            if recorded != decided
        ),
        *(Violation("I4", str(each), each.subject) for each in books.differences if _is_state(each)),
    ]


async def _rollups(connection: AsyncConnection, books: _Books) -> Iterable[Violation]:
    """I5: roll-ups are the sums over records, to the integer."""
    of_rollups = (Check.ROLLUP, Check.DAILY_ROLLUP)
    return [Violation("I5", str(each)) for each in books.differences if each.check in of_rollups]


async def _deliveries(connection: AsyncConnection, books: _Books) -> Iterable[Violation]:
    """I6: each event reached each endpoint at least once, with the same id and the same bytes each time."""
    bodies = {row.event_id: row.body for row in await connection.execute(select(webhook_events))}
    found = [Violation("I6", str(each), each.subject) for each in books.differences if each.check is Check.WEBHOOK]
    found += _ends_untold(books, set((await connection.execute(_ENDS_TOLD)).scalars()), await _has_endpoint(connection))
    if books.evidence.webhooks is None:
        return found
    calls: dict[tuple[str, str], list[JsonObject]] = defaultdict(list)
    for fact in books.evidence.webhooks.of("delivered"):
        calls[str(fact["id"]), str(fact["path"])].append(fact)
    for row in await connection.execute(select(webhook_deliveries)):
        path = books.evidence.paths.get(row.endpoint_id)
        if path is not None:
            made = calls.pop((f"evt_{row.event_id}", path), [])
            found += _delivery(row.execution_id, row.event_id, row.state, made, crc32(bytes(bodies[row.event_id])))
    known = set(books.evidence.paths.values())
    strays = sorted(key for key in calls if key[1] in known)
    return [
        *found,
        *(Violation("I6", f"{id_} was sent to {path}, and there is no such delivery") for id_, path in strays),
    ]


def _delivery(
    execution_id: str | None, event_id: str, state: str, calls: list[JsonObject], checksum: int
) -> Iterator[Violation]:
    if state == "delivered" and not any(call["answer"] == "204" for call in calls):
        yield Violation("I6", f"{event_id} counts as delivered, its receiver took none", execution_id)
    if state == "failed":
        yield Violation("I6", f"{event_id} was given up after {len(calls)} calls", execution_id)
    if any(call["checksum"] != checksum for call in calls):
        yield Violation("I6", f"{event_id} was sent with other bytes", execution_id)


_ENDS_TOLD = select(webhook_events.c.execution_id).where(
    webhook_events.c.event_type.in_(sorted(semconv.TERMINAL_EVENTS))
)


async def _has_endpoint(connection: AsyncConnection) -> bool:
    statement = select(webhook_endpoints.c.events).where(webhook_endpoints.c.status == "active")
    asked = [set(row) for row in (await connection.execute(statement)).scalars()]
    return any(asked_events >= semconv.TERMINAL_EVENTS for asked_events in asked)


def _ends_untold(books: _Books, told: set[str], has_endpoint: bool) -> list[Violation]:
    ended = {id_ for id_, row in books.control.items() if row["status"] in TERMINAL}
    missing = sorted(ended - told) if has_endpoint else []
    return [Violation("I6", "it has ended, and no event tells the endpoints", id_) for id_ in missing]


async def _money(connection: AsyncConnection, books: _Books) -> Iterable[Violation]:
    """I7: records hold what the provider's own ledger holds for every finished call; unfinished calls are flagged."""
    found = [
        Violation("I7", str(each), each.subject)
        for each in books.differences
        if each.check is Check.LEFTOVER or (each.check is Check.RECORD and each.column in _MONEY)
    ]
    if books.evidence.provider is None:
        return found
    finished = {str(fact["call"]): fact for fact in books.evidence.provider.of("finished")}
    paid = Counter[str]()
    for id_, rows in books.spans.items():
        for row in rows:
            call = _response_id(row)
            if row["kind"] == "model" and call is not None and row["provider"] == PROVIDER:
                paid[call] += 1
                found += _call(id_, row, call, finished.get(call))
    found += [Violation("I7", f"{call} stands on {count} spans") for call, count in paid.items() if count > 1]
    unbooked = len(finished.keys() - paid.keys())
    flagged = sum(row["unfinished_calls"] for row in books.records.values())
    cut = sum(row["waste"] == "cancelled" for rows in books.spans.values() for row in rows)
    cut += sum(row["kind"] == "model" and row["input_tokens"] is None for rows in books.spans.values() for row in rows)
    if unbooked > flagged + cut:
        found.append(Violation("I7", f"{unbooked} finished calls are in no record, {flagged + cut} are flagged"))
    return found


def _call(execution_id: str, row: RowMapping, call: str, fact: JsonObject | None) -> Iterator[Violation]:
    tokens = (row["input_tokens"], row["output_tokens"])
    if fact is None:
        if row["input_tokens"] is not None:
            yield Violation("I7", f"{call} is booked with {tokens}, the provider never finished it", execution_id)
        return
    asked, said = fact["prompt_tokens"], fact["completion_tokens"]
    assert isinstance(asked, int)
    assert isinstance(said, int)
    cost = asked * INPUT_NANO_USD + said * OUTPUT_NANO_USD
    if tokens != (asked, said):
        yield Violation("I7", f"{call} is booked with {tokens}, the provider counted {(asked, said)}", execution_id)
    elif row["cost_nano_usd"] != cost:
        yield Violation("I7", f"{call} is booked with {row['cost_nano_usd']} nano-USD, not {cost}", execution_id)


def _response_id(row: RowMapping) -> str | None:
    value = (row["attributes"] or {}).get(semconv.RESPONSE_ID)
    return value if isinstance(value, str) else None


async def _owners(connection: AsyncConnection, books: _Books) -> Iterable[Violation]:
    """I8: no read returns another owner's row; what is stored has the owner that control knows."""
    owner_of = {id_: row["owner_id"] for id_, row in books.control.items()}
    found = []
    for table, column in ((executions, "id"), (spans, "execution_id"), (webhook_events, "execution_id")):
        rows = await connection.execute(select(table.c[column], table.c.owner_id).distinct())
        found += [
            Violation("I8", f"{table.name} says {owner}, control {owner_of[id_]}", id_)
            for id_, owner in rows
            if id_ in owner_of and owner != owner_of[id_]
        ]
    for fact in _facts(books.evidence.clients, "read"):
        id_, asked_by = str(fact["id"]), fact.get("owner")
        if asked_by is not None and id_ in owner_of and owner_of[id_] != asked_by:
            found.append(Violation("I8", f"{asked_by} has read it, it is of {owner_of[id_]}", id_))
    return found


async def _nothing_left(connection: AsyncConnection, books: _Books) -> Iterable[Violation]:
    """I9: outbox, leases and queues are empty at the end."""
    found = [
        Violation("I9", f"it has ended, and {row['lease_owner']} holds its lease", id_)
        for id_, row in books.control.items()
        if row["lease_owner"] is not None and row["status"] in TERMINAL
    ]
    pending = select(func.count()).select_from(webhook_deliveries).where(webhook_deliveries.c.state == "pending")
    left = {"signals in the outbox": await _count(connection, outbox)}
    if books.evidence.webhooks is not None:
        left["deliveries that wait"] = (await connection.execute(pending)).scalar_one()
    if not books.evidence.may_keep_aside:
        left["dead letters"] = await _count(connection, dead_letter)
    tables = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
    for name in sorted({"call_reservations"} & set(tables) & metadata.tables.keys()):
        left[name] = await _count(connection, metadata.tables[name])
    return [*found, *(Violation("I9", f"{count} {what}") for what, count in left.items() if count)]


async def _seals(connection: AsyncConnection, books: _Books) -> Iterable[Violation]:
    """I10: the spans that are stored are those that the seal expects."""
    found = [Violation("I10", str(each), each.subject) for each in books.differences if _is_seal(each)]
    for id_, row in books.records.items():
        stored = len(books.spans.get(id_, ()))
        if row["spans_stored"] != stored:
            found.append(Violation("I10", f"{row['spans_stored']} spans are counted, {stored} are stored", id_))
        elif row["status"] in TERMINAL and row["spans_expected"] != stored:
            found.append(Violation("I10", f"{row['spans_expected']} spans are announced, {stored} are stored", id_))
    return found


_MONEY = frozenset(
    {*TOKEN_FIELDS, "cost_nano_usd", "cost_upper_nano_usd", "waste_nano_usd", "unfinished_calls"}
    | {"unpriced_calls", "unmetered_calls", "failed_calls", "assumed_calls"}
    | {"model_calls", "tool_calls", "nodes_total", "nodes_failed", "nodes_retried", "duration_ms"}
)
_ELSEWHERE = frozenset({"id", "execution_id", "status", "rank", "owner_id", "lease_owner"})
"""Columns that I1 to I4, I8 and I9 look at themselves."""


def _is_seal(difference: Difference) -> bool:
    is_of_seal = difference.column in ("spans_expected", "spans_stored", "seal")
    return difference.check is Check.SPAN or (difference.check is Check.RECORD and is_of_seal)


def _is_state(difference: Difference) -> bool:
    """Whether a record says something else than was decided, apart from money and the seal."""
    is_told = difference.column in _MONEY or difference.column in _ELSEWHERE or _is_seal(difference)
    return difference.check in (Check.RECORD, Check.CONTROL) and not is_told


async def _count(connection: AsyncConnection, table: Table) -> int:
    return (await connection.execute(select(func.count()).select_from(table))).scalar_one()


def _facts(ledger: Ledger | None, what: str) -> list[JsonObject]:
    return [] if ledger is None else ledger.of(what)


CHECKS: dict[str, _Check] = {
    "I1": _one_record_each,
    "I2": _one_end,
    "I3": _no_record_alone,
    "I4": _same_status,
    "I5": _rollups,
    "I6": _deliveries,
    "I7": _money,
    "I8": _owners,
    "I9": _nothing_left,
    "I10": _seals,
}
