"""Follows a running execution: streams its answer to stdout and shows progress on stderr."""

import asyncio
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.text import Text

from api.cli import interrupts, terminal
from api.cli.rendering.formatting import ASSUMED, ASSUMED_MEANING, duration, tokens, unknown_calls, usd
from api.cli.rendering.progress import Progress
from api.wiring.runtime import Runtime
from engine.events import EventType, ExecutionEvent
from engine.request import Caller, ExecutionRequest
from engine.resources import CostSource
from engine.result import ExecutionResult, Status
from engine.security.printable import one_line
from engine.usage import Totals
from telemetry.reads.traces import get_trace

CALLER = Caller(trigger="cli", any_folder=True)
"""A user of the shell can read any folder anyway."""

_FRAMES_PER_SECOND = 8
_MAX_SPANS = 5_000


@dataclass(frozen=True, slots=True)
class Followed:
    """The result of an execution, and the part of its cost that is the offline model's demo price."""

    result: ExecutionResult
    was_interrupted: bool
    demo_nano_usd: int


async def follow(
    runtime: Runtime, request: ExecutionRequest, *, quiet: bool = False, prints_answer: bool = True
) -> Followed:
    """Run a workflow to its end and show it. Raises a `Refusal` if it was not accepted.

    The first Ctrl-C cancels the execution and waits for it, the second exits at once.
    """
    screen = _Screen(quiet=quiet, prints_answer=prints_answer)
    pressed = _Interrupts(runtime, screen)
    result: ExecutionResult | None = None
    with pressed.caught(), screen:
        async with aclosing(runtime.engine.stream(request, CALLER)) as events:
            async for event in events:
                pressed.execution_id = event.execution_id
                pressed.cancel_if_pressed()
                running = runtime.engine.running(event.execution_id)
                screen.show(event, running.context.tracker.totals if running else None)
                if event.type.is_closing:
                    result = ExecutionResult.model_validate(event.data, strict=False)
    assert result is not None
    if prints_answer:
        screen.finish_answer(result)
    return Followed(result, pressed.count > 0, await _demo_cost(runtime, result))


def summary(followed: Followed, *, hint: bool = True) -> Text:
    """One line about a finished execution, with the next command as a `hint`."""
    result = followed.result
    style = {Status.COMPLETED: "green", Status.CANCELLED: "yellow", Status.PAUSED: "yellow"}.get(
        result.status, "bold red"
    )
    text = Text(f"{result.status} ", style=style)
    parts = [f"in {duration(result.duration_ms)}"]
    if result.model_calls or result.unfinished_calls:
        parts += _used(followed)
    if hint:
        look = "executions show" if result.status is Status.PAUSED else "trace"
        parts.append(f"spanloom {look} {result.execution_id}")
    text.append(" · ".join(parts), style="not bold")
    return text


def problem(result: ExecutionResult) -> Text | None:
    """Why the execution failed, and at which node; null if it did not fail."""
    if result.error_type is None:
        return None
    node = next((error.node_id for error in reversed(result.errors) if not error.handled), None)
    place = f" at node {node}" if node else ""
    return Text(one_line(f"{result.error_type}{place}: {result.error_message or ''}"), style="red")


def _used(followed: Followed) -> list[str]:
    usage, cost = followed.result.usage, followed.result.cost_nano_usd
    has_usage = usage.input_tokens is not None or usage.output_tokens is not None
    used = [f"{tokens(usage.input_tokens, usage.output_tokens)} tokens"] if has_usage else []
    if cost is None:
        return [*used, "cost unknown" + (": the model has no price" if has_usage else ": no usage was reported")]
    unknown = unknown_calls(followed.result)
    notes = [f"not the whole cost: {unknown}"] if unknown else []
    if followed.result.assumed_calls:
        return [*used, f"{ASSUMED}{usd(cost)} {ASSUMED_MEANING}", *notes]
    if not followed.demo_nano_usd:
        return [*used, usd(cost), *notes]
    part = "" if followed.demo_nano_usd == cost else f" of which {usd(followed.demo_nano_usd)}"
    return [*used, f"{usd(cost)}{part} demo money, not real", *notes]


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
    """Counts Ctrl-C: the first cancels the execution, the second ends the process."""

    runtime: Runtime
    screen: "_Screen"
    execution_id: str | None = None
    count: int = 0

    @contextmanager
    def caught(self) -> Iterator[None]:
        loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGINT)
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            signal.signal(signal.SIGINT, interrupts.leave if self.count else before)

    def cancel_if_pressed(self) -> None:
        """Cancel the execution if Ctrl-C was pressed and the execution has an id."""
        if self.count and self.execution_id is not None:
            self.runtime.cancel(self.execution_id, "interrupted at the terminal")

    def _interrupt(self) -> None:
        self.count += 1
        if self.count > 1:
            self.screen.close()
            interrupts.leave()
        self.screen.say("Cancelling. Press Ctrl-C again to exit at once.")
        self.cancel_if_pressed()


@dataclass(slots=True)
class _Screen:
    """The answer on stdout, progress on stderr. The two may be one terminal, file or pipe."""

    quiet: bool
    prints_answer: bool
    _console: Console = field(default_factory=lambda: terminal.console(stderr=True))
    _is_merged: bool = field(default_factory=terminal.is_merged)
    _progress: Progress = field(default_factory=Progress)
    _totals: Totals | None = None
    _began: float = field(default_factory=time.time)
    _live: Live | None = None
    _streamed: str = ""
    """The answer as it came, without the line breaks that were inserted for progress lines."""
    _held: str = ""
    """A CR at the end of a piece: whether it is half of a line break, the next piece shows."""
    _line_is_open: bool = False
    """The last character on stdout is not a line break."""

    def __enter__(self) -> None:
        self._resume()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the live tree and leave its last state on the screen."""
        if self._live is not None:
            self._pause()
        self._break_line()
        if not self.quiet and self._console.is_terminal:
            view = self._progress.view(time.time())
            if view:
                self._console.print(view)

    def say(self, sentence: str) -> None:
        """Print a sentence between progress lines."""
        if self._live is not None:
            self._live.console.print(sentence, style="yellow")
        else:
            self._break_line()
            self._console.print(sentence, style="yellow")

    def show(self, event: ExecutionEvent, totals: Totals | None) -> None:
        """Show an event."""
        self._totals = totals or self._totals
        if event.type is EventType.TOKEN:
            self._write(str(event.data["text"]))
            return
        line = self._progress.apply(event)
        if line is not None and not self.quiet and not self._console.is_terminal:
            if self._is_merged:
                self._break_line()
            self._console.print(line, soft_wrap=True)
        if event.type is EventType.NODE_RETRYING and event.data["discard_tokens"] and self._streamed:
            self._break_line()
            self.say("the answer starts again")
        if event.type in (EventType.NODE_COMPLETED, EventType.NODE_FAILED, EventType.NODE_RETRYING):
            self._break_line()
            self._resume()

    def finish_answer(self, result: ExecutionResult) -> None:
        """Print the response if its text was not streamed."""
        if result.status is Status.COMPLETED and result.response and not self._ends_with(result.response):
            print(result.response, flush=True)

    def _ends_with(self, response: str) -> bool:
        return self._streamed.rstrip().endswith(response.rstrip())

    def _write(self, piece: str) -> None:
        text = self._held + piece
        self._held = "\r" if text.endswith("\r") else ""
        text = text.removesuffix(self._held)
        if not self.prints_answer or not text:
            return
        if self._live is not None and sys.stdout.isatty():
            self._pause()
        self._streamed += text
        self._line_is_open = not text.endswith("\n")
        sys.stdout.write(text)
        sys.stdout.flush()

    def _break_line(self) -> None:
        """End the line of the answer, if one is open."""
        if self._line_is_open:
            self._line_is_open = False
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
