"""The attempts that run in this process, and what each has made durable beside its control row."""

import time
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from engine.ledger import Checkpoint, Finish
from engine.store import unfinished
from engine.store.unfinished import OpenNode
from engine.tracing import semconv
from telemetry.journal.decisions import Decision
from telemetry.records.totals import is_recorded, totals_of
from telemetry.signals.records import Attempt, Kind, SpanRecord


@dataclass(slots=True)
class _Run:
    attempt: int
    parts: int = 0
    """Commits with spans since the attempt began."""
    has_rows: bool = False
    """It has rows beside its control row, which must be deleted when it ends."""
    open_nodes: dict[str, OpenNode] = field(default_factory=dict)
    """After the last commit, by span id."""
    waits_for_end: bool = False
    """Its signals become durable with its last decision."""
    leased_at: float = field(default_factory=time.monotonic)
    """When the attempt got its lease, in seconds of `time.monotonic()`; renewals are not counted."""


class Running:
    """The running attempts, one per execution."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}
        self._heard: set[str] = set()

    def __len__(self) -> int:
        return len(self._runs)

    def attempts(self) -> list[Attempt]:
        """All of them; safe to call from any thread."""
        return [(id_, run.attempt) for id_, run in list(self._runs.items())]

    def leased_at(self, attempt: Attempt) -> float | None:
        """When a running attempt got its lease, in seconds of `time.monotonic()`; null if it does not run here."""
        run = self._runs.get(attempt[0])
        return run.leased_at if run is not None and run.attempt == attempt[1] else None

    def waits_for_end(self, attempt: Attempt) -> bool:
        """Whether the signals of a running attempt become durable with its last decision."""
        run = self._runs.get(attempt[0])
        return run is not None and run.attempt == attempt[1] and run.waits_for_end

    def accepted(self, attempt: Attempt, *, waits_for_end: bool = False) -> None:
        """The first attempt of a new execution was accepted."""
        self._runs.setdefault(attempt[0], _Run(attempt[1], has_rows=waits_for_end, waits_for_end=waits_for_end))

    def claimed(self, attempt: Attempt) -> None:
        """A later attempt was claimed; the earlier ones may have left rows."""
        self._runs[attempt[0]] = _Run(attempt[1], has_rows=True)

    def checkpointed(self, decision: Decision) -> None:
        """A checkpoint of the attempt is durable."""
        run = self._runs.get(decision.attempt[0])
        if run is not None and run.attempt == decision.attempt[1]:
            has_spans = bool(decision.batch.spans)
            begins = decision.item.begins if isinstance(decision.item, Checkpoint) else None
            run.parts += has_spans
            run.has_rows = run.has_rows or has_spans or begins is not None
            run.waits_for_end = run.waits_for_end or (begins is not None and begins.stands_for_all)
            run.open_nodes = _open_after(run.open_nodes, decision.batch.spans)

    def ended(self, attempt: Attempt) -> None:
        """The attempt does not run here any more."""
        run = self._runs.get(attempt[0])
        if run is not None and run.attempt == attempt[1]:
            del self._runs[attempt[0]]
            self._heard.discard(attempt[0])

    def part(self, decision: Decision) -> unfinished.Part:
        """The spans of a decision as the next part of an unfinished execution."""
        execution_id, attempt = decision.attempt
        run = self._runs.get(execution_id)
        if run is None or run.attempt != attempt:
            run = _Run(attempt)
        spans = decision.batch.spans
        stored = [span.span_id for span in spans if is_recorded(span)]
        still_open = list(_open_after(run.open_nodes, spans).values())
        return unfinished.Part(execution_id, attempt, run.parts + 1, stored, totals_of(spans), still_open)

    def with_rows(self, finishes: Iterable[Finish], checkpointed: AbstractSet[str]) -> list[str]:
        """The ending executions that may have rows beside their control row.

        `checkpointed`: executions with a checkpoint in the same commit, whose caller was cancelled and did not wait.
        """
        return [
            item.execution_id
            for item in finishes
            if item.execution_id in checkpointed or (run := self._runs.get(item.execution_id)) is None or run.has_rows
        ]

    def not_cancelled(self) -> list[str]:
        """The executions whose cancel request was not passed on yet, by id."""
        return sorted(self._runs.keys() - self._heard)

    def cancelled(self, execution_id: str) -> None:
        """The execution was told to stop; it is not told again."""
        self._heard.add(execution_id)


def _open_after(before: Mapping[str, OpenNode], spans: Sequence[SpanRecord]) -> dict[str, OpenNode]:
    """The open nodes once these spans are durable, too."""
    ended = {span.span_id for span in spans if span.kind is Kind.NODE}
    found = {**before}
    for span in spans:
        node = _node_above(span)
        if node is not None and (known := found.get(node.span_id, node)).start_ns >= node.start_ns:
            found[node.span_id] = replace(known, start_ns=node.start_ns)
    return {span_id: node for span_id, node in found.items() if span_id not in ended}


def _node_above(span: SpanRecord) -> OpenNode | None:
    """The node that a call was made by; null for other spans."""
    node_id, node_type = span.text(semconv.NODE_ID), span.text(semconv.NODE_TYPE)
    if span.kind in (Kind.WORKFLOW, Kind.NODE) or span.parent_span_id is None or node_id is None or node_type is None:
        return None
    return OpenNode(span.parent_span_id, node_id, node_type, span.integer(semconv.NODE_ATTEMPT) or 1, span.start_ns)
