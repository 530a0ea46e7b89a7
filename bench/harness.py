"""Compares the CPU and wall time of variants: each has a process of its own, all share one core and take turns.

A variant is a context that yields a runner. A runner runs a number of executions and reports their answer and spans, so
that no variant wins by doing less. CPU time is that of the whole process, including background threads.
"""

import asyncio
import contextlib
import gc
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent
SECONDS_PER_ROUND = 600

Effort = Literal["smoke", "short", "full"]
"""`smoke` only checks that the benchmark runs; the goals are measured with `full`."""

ROUNDS: dict[Effort, int] = {"smoke": 1, "short": 5, "full": 9}


@dataclass(frozen=True, slots=True)
class Work:
    """The result of a runner: the answer of its executions, the spans of each, and additional figures."""

    answer: str
    spans: int = 0
    figures: dict[str, float] = field(default_factory=dict)


Runner = Callable[[int], Awaitable[Work]]
Variant = Callable[[], AbstractAsyncContextManager[Runner]]


@dataclass(frozen=True, slots=True)
class Sample:
    """One repetition: CPU time of the process and wall time, per execution, in µs."""

    cpu_us: float
    wall_us: float
    work: Work


@dataclass(slots=True)
class Measured:
    """All repetitions of one variant."""

    samples: list[Sample] = field(default_factory=list)

    @property
    def cpu_us(self) -> float:
        """The median CPU time of an execution."""
        return median(sample.cpu_us for sample in self.samples)

    @property
    def wall_us(self) -> float:
        """The median wall time per execution; for concurrent executions, the total time divided by their number."""
        return median(sample.wall_us for sample in self.samples)

    @property
    def work(self) -> Work:
        """The result of the last repetition."""
        return self.samples[-1].work

    def figure(self, name: str) -> float:
        """Return the median of an additional figure."""
        return median(sample.work.figures[name] for sample in self.samples)

    def ratio(self, other: "Measured") -> float:
        """Return the median ratio of CPU time, round by round: a machine that slows down affects both variants."""
        return median(ours.cpu_us / its.cpu_us for ours, its in zip(self.samples, other.samples, strict=True))


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure and the bound that the design sets for it."""

    what: str
    figure: float
    bound: float
    at_least: bool = False

    @property
    def reached(self) -> bool:
        """Whether the figure is within its bound."""
        return self.figure >= self.bound if self.at_least else self.figure <= self.bound


Row = Mapping[str, str | float | int]


@dataclass(frozen=True, slots=True)
class Report:
    """The results of a group: a table, the goals, and notes for the reader."""

    group: str
    title: str
    rows: Sequence[Row]
    goals: Sequence[Goal] = ()
    notes: Sequence[str] = ()


def compare(
    module: str, variants: Iterable[str], *, executions: int | Mapping[str, int], effort: Effort
) -> dict[str, Measured]:
    """Run the variants of `module` in turns, each with `executions` executions per repetition."""
    names = list(variants)
    numbers = executions if isinstance(executions, Mapping) else dict.fromkeys(names, executions)
    measured = {name: Measured() for name in names}
    with contextlib.ExitStack() as stack:
        workers = {name: stack.enter_context(_worker(module, name)) for name in names}
        for name in names:
            workers[name](numbers[name])
        for _ in range(ROUNDS[effort]):
            for name in names:
                measured[name].samples.append(workers[name](numbers[name]))
    return measured


def check_equal(measured: Mapping[str, Measured], *, spans: Mapping[str, int]) -> None:
    """Raise `AssertionError` if the answers differ, or a variant has not made the expected number of spans."""
    answers = {name: sample.work.answer for name, its in measured.items() for sample in its.samples}
    assert len(set(answers.values())) == 1, f"the answers differ: {answers}"
    for name, number in spans.items():
        made = {sample.work.spans for sample in measured[name].samples}
        assert made == {number}, f"{name} made {made} spans an execution, not {number}"


@contextmanager
def _worker(module: str, variant: str) -> Iterator[Callable[[int], Sample]]:
    """Start a process with the variant, and yield a function that runs a number of executions in it."""
    command = [sys.executable, "-m", "bench", "--worker", module, variant]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def run(executions: int) -> Sample:
        print(executions, file=stdin, flush=True)
        line = stdout.readline()
        assert line, f"the worker {module} {variant} has died"
        sample = json.loads(line)
        return Sample(sample["cpu_us"], sample["wall_us"], Work(**sample["work"]))

    try:
        yield run
    finally:
        stdin.close()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        stdout.close()


def environment() -> dict[str, str]:
    """Return the environment without settings that would change the measurements."""
    names = ("OTEL_", "SPANLOOM_", "LANGCHAIN_", "LANGSMITH_", "LANGGRAPH_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    return kept | {"LANGSMITH_TRACING": "false", "LANGGRAPH_STRICT_MSGPACK": "true", "PYTHONHASHSEED": "0"}


async def serve(module: str, name: str) -> None:
    """Serve as the worker process: for each number on stdin, run that many executions and print a sample as JSON."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    variant: Variant = importlib.import_module(f"bench.{module}").VARIANTS[name]
    async with variant() as run:
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(asdict(await _measure(run, int(line)))), flush=True)


async def _measure(run: Runner, executions: int) -> Sample:
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    work = await run(executions)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return Sample(cpu / executions * 1e6, wall / executions * 1e6, work)


async def one_by_one(run: Callable[[], Awaitable[Work]], executions: int) -> Work:
    """Run executions one after the other. All must have the same result; figures are medians."""
    done = [await run() for _ in range(executions)]
    assert len({(work.answer, work.spans) for work in done}) == 1
    figures = {name: median(work.figures[name] for work in done) for name in done[0].figures}
    return Work(done[0].answer, done[0].spans, figures)


async def side_by_side(run: Callable[[int], Awaitable[Work]], executions: int, concurrent: int) -> Work:
    """Run the executions 0, 1, 2, …, at most `concurrent` at a time. All must have the same result."""
    numbers = iter(range(executions))
    done: list[Work] = []

    async def lane() -> None:
        done.extend([await run(number) for number in numbers])

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrent, executions)):
            group.create_task(lane(), name="lane")
    assert len({(work.answer, work.spans) for work in done}) == 1
    return done[0]


def show(report: Report, effort: Effort) -> None:
    """Print a table for people and one JSON line for programs."""
    print(f"\n{report.group}  {report.title}  ({effort}, {ROUNDS[effort]} rounds)")
    for line in _table(report.rows):
        print(f"  {line}")
    for goal in report.goals:
        sign = ">=" if goal.at_least else "<="
        print(
            f"  {'reached' if goal.reached else 'MISSED '}  {goal.what}: {goal.figure:.4g} (goal {sign} {goal.bound:g})"
        )
    for note in report.notes:
        print(f"  {note}")
    goals = [{**asdict(goal), "reached": goal.reached} for goal in report.goals]
    print(json.dumps({**_context(effort), **asdict(report), "goals": goals}), flush=True)


def _table(rows: Sequence[Row]) -> Iterator[str]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, *([_cell(row.get(name, "")) for name in columns] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        yield "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 100 else f"{value:.3g}"


def _context(effort: Effort) -> Row:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit,
        "effort": effort,
        "rounds": ROUNDS[effort],
        "cores": os.cpu_count() or 0,
        "python": platform.python_version(),
    }


@contextlib.asynccontextmanager
async def just(run: Callable[[], Awaitable[Work]]) -> AsyncIterator[Runner]:
    """A variant without resources, which runs one execution after the other."""
    yield lambda executions: one_by_one(run, executions)
