"""Runs a workflow in one process per place at which it dies, by SIGKILL.

`python -m tests.attacks.dying_agent FILE`, where FILE is a `Dying` as JSON. Places: `before N` (the statements of the
N-th commit were sent, but not its COMMIT), `after N` (it is made, and nobody knows it), `call N` (the provider has
billed the N-th call, and not answered), `tool` (the agent uses its tool). The provider's ledger is a file.
"""

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import event

from engine.execution.handle import Execution
from engine.graph import JsonObject
from engine.request import Caller
from engine.resources import ModelRequest
from engine.testing.models import Call, Say, Step
from engine.tools.function import function_tool
from telemetry.journal.journal import Journal
from tests.faults.ledger import Ledger
from tests.workflow_runner import request, workflow_runner

NANO_USD = 12 * 1_000 + 7 * 2_000
"""What the provider bills for one call, and the price of one in the books."""
NEVER = "never"
"""The place of the execution that ends."""
_THREAD_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Dying:
    """A workflow, and the places where it dies. The correlation id of each execution is its place."""

    url: str
    ledger: str
    document: JsonObject
    places: Sequence[str]

    async def die(self) -> None:
        """Run it at all places; raises `AssertionError` if a process has ended otherwise."""
        file = Path(self.ledger).with_suffix(".json")
        file.write_text(json.dumps(asdict(self)))
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.attacks.dying_agent", str(file))
        assert await process.wait() == 0

    def billed(self, place: str) -> int:
        """The calls that the provider has billed to the execution of this place."""
        return len(Ledger(Path(self.ledger)).of(place))


def main() -> None:
    """Run it to its end first, which imports and reads all that is needed, then fork once per place."""
    dying = Dying(**json.loads(Path(sys.argv[1]).read_text()))
    asyncio.run(_run(dying, NEVER))
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join(_THREAD_SECONDS)
    assert threading.active_count() == 1, threading.enumerate()
    for place in dying.places:
        pid = os.fork()
        if pid == 0:
            asyncio.run(_run(dying, place))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, f"the place {place!r} was not reached"


async def _run(dying: Dying, place: str) -> None:
    word, _, number = place.partition(" ")
    at = int(number or 1)
    async with workflow_runner(dying.url, keep_signals=False) as runner:
        journal = runner.runtime.journal
        journal._flush_seconds = 60
        _count_commits(journal, runner.runtime.database._writer.sync_engine, word, at)
        provider = _provider(Ledger(Path(dying.ledger)), place, at if word == "call" else None)
        tool = function_tool(_die if word == "tool" else _idle, name="work")
        engine = runner.engine(provider, [tool])
        source = {"kind": "graph", "graph": dying.document}
        execution: Execution = await engine.start(request(source), Caller(correlation_id=place), streaming=False)
        await execution.result()


def _provider(ledger: Ledger, place: str, dies_at: int | None) -> Callable[[ModelRequest], Step]:
    """Each conversation asks for the tool once."""

    def answer(asked: ModelRequest) -> Step:
        ledger.write_now(what=place)
        if dies_at is not None and len(ledger.of(place)) >= dies_at:
            _kill()
        return Say("done") if any(message["role"] == "tool" for message in asked.messages) else Call("work")

    return answer


def _count_commits(journal: Journal, engine: Any, word: str, at: int) -> None:
    """Die at the commit with this number; only those of decisions count."""
    transact, number, is_deciding = journal._transact, 0, False

    async def transact_or_die(*arguments: Any) -> None:
        nonlocal number, is_deciding
        number, is_deciding = number + 1, True
        await transact(*arguments)
        is_deciding = False

    def settle_or_die(*arguments: Any) -> None:
        if word == "after" and number == at:
            _kill()
        settle(*arguments)

    def commit_or_die(_connection: Any) -> None:
        if word == "before" and number == at and is_deciding:
            _kill()

    settle = journal._settle
    journal.__dict__.update(_transact=transact_or_die, _settle=settle_or_die)
    event.listen(engine, "commit", commit_or_die)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def _idle() -> str:
    """Do something."""
    return "ok"


async def _die() -> str:
    """Die of it."""
    _kill()
    return "never"


if __name__ == "__main__":
    main()
