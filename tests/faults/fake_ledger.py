"""A ledger without a database: one shared control that decides, and per process a ledger with faulty access to it.

It decides as `engine.store.control` and `telemetry.journal.journal` do. What a process asks for goes on although
whoever asked is cancelled, its answer may get lost, and it is asked again then.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from engine.errors import Fenced, Unavailable
from engine.graph import JsonObject
from engine.identity import ExecutionIdentity
from engine.ledger import (
    Acceptance,
    Checkpoint,
    Claim,
    ClaimReason,
    Finish,
    GivenAnswer,
    Ledger,
    Pause,
    Release,
    Root,
    SpanIds,
)
from engine.result import Approval, Status
from engine.store.claims import MAX_CRASHES
from engine.usage import Carried
from tests.faults.simulation import EPOCH_SECONDS, Fate

T = TypeVar("T")

LEASE_SECONDS = 12.0
RETRY_SECONDS = 10.0
"""How long a decision is asked for again while the control has trouble."""
_SWEEPER = "sweeper"

Attempt = tuple[str, int]
Ending = Pause | Release | Finish


@dataclass(frozen=True, slots=True)
class Fact:
    """One commit about an execution."""

    kind: Literal["accepted", "claimed", "paused", "released", "lost", "decided"]
    attempt: int
    by: str
    status: Status


@dataclass(slots=True)
class Row:
    """The state of one execution in control, and its history."""

    acceptance: Acceptance
    identity: ExecutionIdentity
    status: Status
    attempt: int
    accepted_at: float
    claim_reason: ClaimReason | None = None
    lease_owner: str | None = None
    lease_until: float = 0.0
    due_at: float | None = None
    crashes: int = 0
    is_cancel_asked: bool = False
    root: Root | None = None
    result: JsonObject | None = None
    approvals: list[Approval] = field(default_factory=list)
    answers: list[GivenAnswer] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)

    def note(self, kind: Literal["accepted", "claimed", "paused", "released", "lost", "decided"], by: str) -> None:
        """Remember that it was committed just now."""
        self.facts.append(Fact(kind, self.attempt, by, self.status))

    def go_on(self, reason: ClaimReason) -> None:
        """Wait for a process that claims it."""
        self.status, self.claim_reason = Status.RUNNING, reason
        self.lease_owner, self.due_at = None, None

    @property
    def is_claimable(self) -> bool:
        """Whether a process may claim it now."""
        is_due = self.status is Status.PAUSED and self.due_at is not None and self.due_at <= _now()
        waits = self.status in (Status.QUEUED, Status.RUNNING) or is_due
        return self.lease_owner is None and not self.is_cancel_asked and waits


class Control:
    """Decides for all processes; each call is a transaction."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    def owns(self, attempt: Attempt, owner: str) -> bool:
        """Whether this attempt runs under this lease."""
        row = self.rows.get(attempt[0])
        return (
            row is not None and row.status is Status.RUNNING and row.lease_owner == owner and row.attempt == attempt[1]
        )

    def accept(self, acceptance: Acceptance, owner: str) -> None:
        """Keep it, unless it is there already."""
        identity = acceptance.identity
        if identity.execution_id in self.rows:
            return
        row = Row(acceptance, identity, acceptance.status, identity.attempt, _now(), root=acceptance.root)
        if acceptance.status is Status.RUNNING:
            row.lease_owner, row.lease_until = owner, _now() + LEASE_SECONDS
        else:
            row.claim_reason = "queued"
        self.rows[identity.execution_id] = row
        row.note("accepted", owner)

    def claim(self, limit: int, owner: str) -> list[Claim]:
        """A new attempt of each, under this lease."""
        return [self._claim(row, owner) for row in [row for row in self.rows.values() if row.is_claimable][:limit]]

    def checkpoint(self, item: Checkpoint, owner: str) -> bool:
        """False if fenced off."""
        if not self.owns((item.execution_id, item.attempt), owner):
            return False
        if item.root is not None and item.identity is not None:
            self.rows[item.execution_id].root = item.root
        return True

    def end(self, item: Ending, owner: str, *, is_repeated: bool) -> bool:
        """End an attempt; false if it is fenced off, but true if it was this very decision that was made before."""
        row = self.rows[item.execution_id]
        if not self.owns((item.execution_id, item.attempt), owner):
            return is_repeated and row.attempt == item.attempt and _is_decided(item, row)
        match item:
            case Finish():
                self._decide(row, item.status, item.result, owner)
            case Pause():
                row.status, row.result, row.lease_owner = Status.PAUSED, item.result, None
                row.due_at = None if item.due_at is None else item.due_at.timestamp() - EPOCH_SECONDS
                row.approvals = list(item.approvals)
                row.note("paused", owner)
            case Release():
                row.go_on("shutdown")
                row.note("released", owner)
        return True

    def renew(self, attempts: list[Attempt], owner: str) -> list[Attempt]:
        """Renew the leases; returns the attempts that have lost theirs."""
        missing = [attempt for attempt in attempts if not self.owns(attempt, owner)]
        for attempt in attempts:
            if attempt not in missing:
                self.rows[attempt[0]].lease_until = _now() + LEASE_SECONDS
        return missing

    def ask_to_cancel(self, execution_id: str) -> None:
        """Whoever runs it, or the sweep, ends it."""
        row = self.rows[execution_id]
        row.is_cancel_asked = row.is_cancel_asked or not row.status.is_terminal

    def asked_to_cancel(self, attempts: list[Attempt]) -> list[str]:
        """Those of these executions."""
        rows = ((id_, self.rows[id_]) for id_, _ in attempts)
        return [id_ for id_, row in rows if row.is_cancel_asked and not row.status.is_terminal]

    def answer(self, execution_id: str) -> None:
        """Approve a paused execution."""
        row = self.rows[execution_id]
        if row.status is Status.PAUSED and not row.is_cancel_asked:
            row.answers += [GivenAnswer(each.approval_id, "approved", None, "ann") for each in row.approvals]
            row.go_on("answer")

    def sweep(self) -> None:
        """End lost executions or make them claimable."""
        for row in self.rows.values():
            is_expired = row.lease_owner is not None and row.lease_until < _now()
            if row.status is Status.RUNNING and is_expired:
                self._lose(row)
            elif row.lease_owner is None and row.is_cancel_asked and not row.status.is_terminal:
                self._decide(row, Status.CANCELLED, {}, _SWEEPER)

    def _lose(self, row: Row) -> None:
        row.note("lost", _SWEEPER)
        if row.is_cancel_asked:
            self._decide(row, Status.CANCELLED, {}, _SWEEPER)
        elif row.acceptance.on_lost == "fail" or row.crashes + 1 >= MAX_CRASHES:
            self._decide(row, Status.FAILED, {}, _SWEEPER)
        else:
            row.crashes += 1
            row.go_on("crash")

    def _decide(self, row: Row, status: Status, result: JsonObject, by: str) -> None:
        row.status, row.result, row.lease_owner = status, result, None
        row.note("decided", by)

    def _claim(self, row: Row, owner: str) -> Claim:
        reason = row.claim_reason or "timer"
        if row.status is not Status.QUEUED:
            row.attempt += 1
        row.status, row.claim_reason, row.due_at = Status.RUNNING, None, None
        row.lease_owner, row.lease_until = owner, _now() + LEASE_SECONDS
        row.note("claimed", owner)
        return Claim(
            identity=replace(row.identity, attempt=row.attempt),
            reason=reason,
            request=row.acceptance.request,
            graph=row.acceptance.graph,
            age_seconds=_now() - row.accepted_at,
            previous_root=row.root,
            carried=Carried(),
            on_lost=row.acceptance.on_lost,
            first_root=None if (root := row.acceptance.root) is None else SpanIds(root.trace_id, root.span_id),
            answers=list(row.answers),
        )


class FaultyLedger(Ledger):
    """One process's access to the control, which may be slow, silent or broken."""

    is_durable = True

    def __init__(self, owner: str, control: Control, fate: Fate, hits: Counter[str]) -> None:
        self.owner = owner
        self.is_dead = False
        self.on_fenced: Callable[[str, int], None] = lambda *_: None
        self._control = control
        self._fate = fate
        self._hits = hits
        self._running: dict[str, int] = {}
        self._thawed = asyncio.Event()
        self._thawed.set()

    @property
    def running(self) -> list[Attempt]:
        """The attempts whose leases this process renews."""
        return list(self._running.items())

    async def freeze(self, seconds: float) -> None:
        """Let nothing through for so long, neither way."""
        self._thawed.clear()
        await asyncio.sleep(seconds)
        self._thawed.set()

    async def accept(self, acceptance: Acceptance) -> None:
        """Asked for once."""
        await _apart(self._accept(acceptance))

    def abandon(self, execution_id: str, attempt: int = 1) -> None:
        """Its lease is not renewed any more."""
        if self._running.get(execution_id) == attempt:
            del self._running[execution_id]

    async def claim(self, limit: int) -> list[Claim]:
        """Asked for once."""
        claims = await self._ask(lambda: self._control.claim(limit, self.owner))
        self._running |= {claim.identity.execution_id: claim.identity.attempt for claim in claims}
        return claims

    async def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Asked for until there is an answer."""
        attempt = checkpoint.execution_id, checkpoint.attempt
        if not await self._insist(attempt, lambda _: self._control.checkpoint(checkpoint, self.owner)):
            raise Fenced

    async def pause(self, pause: Pause) -> bool:
        """Asked for until there is an answer."""
        return await self._end(pause)

    async def release(self, release: Release) -> bool:
        """Asked for until there is an answer."""
        return await self._end(release)

    async def finish(self, finish: Finish) -> bool:
        """Asked for until there is an answer."""
        return await self._end(finish)

    async def renew(self) -> None:
        """Renew every lease; attempts that lost theirs are fenced off."""
        for attempt in await self._ask(lambda: self._control.renew(self.running, self.owner)):
            if attempt in self.running:
                self.abandon(*attempt)
                self.on_fenced(*attempt)

    async def asked_to_cancel(self) -> list[str]:
        """Executions that run here."""
        return await self._ask(lambda: self._control.asked_to_cancel(self.running))

    async def _accept(self, acceptance: Acceptance) -> None:
        await self._ask(lambda: self._control.accept(acceptance, self.owner))
        if acceptance.status is Status.RUNNING:
            self._running.setdefault(acceptance.identity.execution_id, acceptance.identity.attempt)

    async def _end(self, item: Ending) -> bool:
        attempt = item.execution_id, item.attempt
        try:
            return await self._insist(
                attempt, lambda is_repeated: self._control.end(item, self.owner, is_repeated=is_repeated)
            )
        finally:
            self.abandon(*attempt)

    async def _insist(self, attempt: Attempt, decide: Callable[[bool], bool]) -> bool:
        """Retry while the control fails, after growing waits."""
        until, pause = _now() + RETRY_SECONDS, 0.1
        is_repeated = False
        while True:
            try:
                return await _apart(self._settle(attempt, decide, is_repeated=is_repeated))
            except Unavailable:
                if self.is_dead or _now() + pause > until:
                    raise
            await asyncio.sleep(pause)
            is_repeated, pause = True, min(2 * pause, 2.0)

    async def _settle(self, attempt: Attempt, decide: Callable[[bool], bool], *, is_repeated: bool) -> bool:
        decided = await self._ask(lambda: decide(is_repeated))
        if not decided:
            self._hits["fenced"] += 1
            self.abandon(*attempt)
            self.on_fenced(*attempt)
        return decided

    async def _ask(self, act: Callable[[], T]) -> T:
        """One transaction. Raises `Unavailable`, whether or not it was done."""
        await self._pass("refused")
        answer = act()
        await self._pass("answer lost")
        return answer

    async def _pass(self, trouble: str) -> None:
        await self._fate.delay(8.0 if self._fate.strikes("slow") else 0.05)
        await self._thawed.wait()
        if self.is_dead or self._fate.strikes(trouble):
            raise Unavailable


async def _apart(asked: Coroutine[Any, Any, T]) -> T:
    """What was asked for is done, whoever still waits for it."""
    return await asyncio.shield(asyncio.create_task(asked, name="asked"))


def _is_decided(item: Ending, row: Row) -> bool:
    match item:
        case Finish():
            return row.status is item.status and row.result == item.result
        case Pause():
            return row.status is Status.PAUSED and row.result == item.result
        case Release():
            return row.claim_reason == "shutdown"


def _now() -> float:
    return asyncio.get_running_loop().time()
