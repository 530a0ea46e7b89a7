"""The attempts that run in this process, and what each has made durable beside its control row."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from engine.ledger import Checkpoint, Finish
from engine.store import unfinished
from telemetry.journal.decisions import Decision
from telemetry.records.totals import is_recorded, totals_of
from telemetry.signals.records import Attempt


@dataclass(slots=True)
class _Run:
    attempt: int
    parts: int = 0
    """Commits with spans since the attempt began."""
    has_rows: bool = False
    """It has rows beside its control row, which must be deleted when it ends."""


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

    def accepted(self, attempt: Attempt) -> None:
        """The first attempt of a new execution was accepted."""
        self._runs.setdefault(attempt[0], _Run(attempt[1]))

    def claimed(self, attempt: Attempt) -> None:
        """A later attempt was claimed; the earlier ones may have left rows."""
        self._runs[attempt[0]] = _Run(attempt[1], has_rows=True)

    def checkpointed(self, decision: Decision) -> None:
        """A checkpoint of the attempt is durable."""
        run = self._runs.get(decision.attempt[0])
        if run is not None and run.attempt == decision.attempt[1]:
            has_spans = bool(decision.batch.spans)
            reserves = isinstance(decision.item, Checkpoint) and decision.item.begins is not None
            run.parts += has_spans
            run.has_rows = run.has_rows or has_spans or reserves

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
        stored = [span.span_id for span in decision.batch.spans if is_recorded(span)]
        number = run.parts + 1 if run is not None and run.attempt == attempt else 1
        return unfinished.Part(execution_id, attempt, number, stored, totals_of(decision.batch.spans))

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
