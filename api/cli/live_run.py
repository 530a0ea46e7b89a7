"""Follows a running execution on the terminal: the answer on stdout as it comes, what happens on stderr."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.text import Text

from api.cli import terminal
from api.cli.errors import INTERRUPTED
from api.cli.rendering.formatting import duration, tokens, usd
from api.cli.rendering.progress import Progress
from api.wiring.runtime import Runtime
from engine.events import EventType, ExecutionEvent
from engine.request import Caller, ExecutionRequest
from engine.resources import CostSource
from engine.result import ExecutionResult, Status
from engine.usage import Totals
from telemetry.reads.traces import get_trace

CALLER = Caller(trigger="cli", any_folder=True)
"""Whoever has the shell may read any folder anyway."""

_FRAMES_PER_SECOND = 8
_MAX_SPANS = 5_000


@dataclass(frozen=True, slots=True)
class Followed:
    """How it ended, and what of its cost is the offline model's demo price."""

    result: ExecutionResult
    was_interrupted: bool
    demo_nano_usd: int


async def follow(
    runtime: Runtime, request: ExecutionRequest, *, quiet: bool = False, prints_answer: bool = True
) -> Followed:
    """Run to the end and show it. Raises a `Refusal` if nothing was accepted.

    The first Ctrl-C cancels the execution and waits for it, the second leaves at once.
    """
    screen = _Screen(quiet=quiet, prints_answer=prints_answer)
    interrupts = _Interrupts(runtime, screen)
    result: ExecutionResult | None = None
    with interrupts.caught(), screen:
        async with aclosing(runtime.engine.stream(request, CALLER)) as events:
            async for event in events:
                interrupts.execution_id = event.execution_id
                interrupts.pass_on()
                running = runtime.engine.running(event.execution_id)
                screen.show(event, running.context.tracker.totals if running else None)
                if event.type.is_closing:
                    result = ExecutionResult.model_validate(event.data, strict=False)
    assert result is not None
    if prints_answer:
        screen.finish_answer(result)
    return Followed(result, interrupts.count > 0, await _demo_cost(runtime, result))


def summary(followed: Followed, *, hint: bool = True) -> Text:
    """The end of an execution in one line, with a `hint` where to look next."""
    result = followed.result
    style = {Status.COMPLETED: "green", Status.CANCELLED: "yellow", Status.PAUSED: "yellow"}.get(
        result.status, "bold red"
    )
    text = Text(f"{result.status} ", style=style)
    parts = [f"in {duration(result.duration_ms)}"]
    if result.model_calls:
        parts += _used(followed)
    if hint:
        look = "executions show" if result.status is Status.PAUSED else "trace"
        parts.append(f"spanloom {look} {result.execution_id}")
    text.append(" · ".join(parts), style="not bold")
    return text


def problem(result: ExecutionResult) -> Text | None:
    """Why it failed, and where."""
    if result.error_type is None:
        return None
    node = next((error.node_id for error in reversed(result.errors) if not error.handled), None)
    place = f" at node {node}" if node else ""
    return Text(f"{result.error_type}{place}: {result.error_message or ''}", style="red")


def _used(followed: Followed) -> list[str]:
    usage, cost = followed.result.usage, followed.result.cost_nano_usd
    has_usage = usage.input_tokens is not None or usage.output_tokens is not None
    used = [f"{tokens(usage.input_tokens, usage.output_tokens)} tokens"] if has_usage else []
    if cost is None:
        return [*used, "cost unknown" + (": the model has no price" if has_usage else ": no usage was reported")]
    if not followed.demo_nano_usd:
        return [*used, usd(cost)]
    part = "" if followed.demo_nano_usd == cost else f" of which {usd(followed.demo_nano_usd)}"
    return [*used, f"{usd(cost)}{part} demo money, not real"]


async def _demo_cost(runtime: Runtime, result: ExecutionResult) -> int:
    if not result.cost_nano_usd:
        return 0
    async with runtime.database.read() as connection:
        trace = await get_trace(connection, result.execution_id, CALLER.owner, limit=_MAX_SPANS)
    spans = trace.spans if trace else []
    return sum(
        span.cost_nano_usd or 0 for span in spans if span.kind == "model" and span.cost_source == CostSource.DEMO
    )


@dataclass(slots=True)
class _Interrupts:
    """Counts Ctrl-C: the first is handed to the execution, the second ends the process."""

    runtime: Runtime
    screen: "_Screen"
    execution_id: str | None = None
    count: int = 0

    @contextmanager
    def caught(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)

    def pass_on(self) -> None:
        """Cancel, if that is asked for and there is something to cancel by now."""
        if self.count and self.execution_id is not None:
            self.runtime.cancel(self.execution_id, "interrupted at the terminal")

    def _interrupt(self) -> None:
        self.count += 1
        if self.count > 1:
            self.screen.close()
            sys.stdout.flush()
            os._exit(INTERRUPTED)
        self.screen.say("cancelling; press Ctrl-C again to leave at once")
        self.pass_on()


@dataclass(slots=True)
class _Screen:
    """Two streams that may be one terminal: the live tree makes room while an answer is written."""

    quiet: bool
    prints_answer: bool
    _console: Console = field(default_factory=lambda: terminal.console(stderr=True))
    _progress: Progress = field(default_factory=Progress)
    _totals: Totals | None = None
    _began: float = field(default_factory=time.time)
    _live: Live | None = None
    _written: str = ""

    def __enter__(self) -> None:
        self._resume()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave what happened on the screen."""
        if self._live is not None:
            self._pause()
        self._break_line()
        if not self.quiet and self._console.is_terminal:
            view = self._progress.view(time.time())
            if view:
                self._console.print(view)

    def say(self, sentence: str) -> None:
        """A sentence in between."""
        if self._live is not None:
            self._live.console.print(sentence, style="yellow")
        else:
            self._break_line()
            self._console.print(sentence, style="yellow")

    def show(self, event: ExecutionEvent, totals: Totals | None) -> None:
        """Take an event in."""
        self._totals = totals or self._totals
        if event.type is EventType.TOKEN:
            self._write(str(event.data["text"]))
            return
        line = self._progress.apply(event)
        if line is not None and not self.quiet and not self._console.is_terminal:
            self._console.print(line, soft_wrap=True)
        if event.type is EventType.NODE_RETRYING and event.data["discard_tokens"] and self._written:
            self._break_line()
            self.say("the answer begins anew")
        if event.type in (EventType.NODE_COMPLETED, EventType.NODE_FAILED, EventType.NODE_RETRYING):
            self._break_line()
            self._resume()

    def finish_answer(self, result: ExecutionResult) -> None:
        """Print the response where its text has not been streamed."""
        if result.status is Status.COMPLETED and result.response and not self._ends_with(result.response):
            print(result.response, flush=True)

    def _ends_with(self, response: str) -> bool:
        return self._written.rstrip().endswith(response.rstrip())

    def _write(self, text: str) -> None:
        if not self.prints_answer:
            return
        if self._live is not None and sys.stdout.isatty():
            self._pause()
        self._written += text
        sys.stdout.write(text)
        sys.stdout.flush()

    def _break_line(self) -> None:
        """End the line of an answer that was written so far."""
        if self._written and not self._written.endswith("\n"):
            self._written += "\n"
            sys.stdout.write("\n")
            sys.stdout.flush()

    def _resume(self) -> None:
        if self._live is None and not self.quiet and self._console.is_terminal:
            self._live = Live(
                get_renderable=self._frame,
                console=self._console,
                transient=True,
                refresh_per_second=_FRAMES_PER_SECOND,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()

    def _pause(self) -> None:
        assert self._live is not None
        self._live.stop()
        self._live = None

    def _frame(self) -> Text:
        now = time.time()
        foot = [duration((now - self._began) * 1_000)]
        if self._totals is not None and self._totals.model_calls:
            usage = self._totals.usage
            foot += [f"{tokens(usage.input_tokens, usage.output_tokens)} tokens", usd(self._totals.cost_nano_usd)]
        view = self._progress.view(now, at_most=max(self._console.height - 4, 4))
        return Text("\n").join([*([view] if view else []), Text("  " + " · ".join(foot), style="dim")])
