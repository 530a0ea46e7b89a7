"""The figures of the fault tests: planned faults, faults that hit, and results, with seed and commit.

A test that planned faults fails if fewer have hit, whatever else it found. `SPANLOOM_FAULTS=long` asks for the figures
of reliability.md in full; without it everything is smaller. `SPANLOOM_FAULTS_SEED` repeats a run.
"""

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Literal, Self, TypeVar

import pytest

T = TypeVar("T")

IS_LONG = os.environ.get("SPANLOOM_FAULTS") == "long"
PROPERTY = "figure"
"""The name under which a test report carries its figure, also from another process."""

_SHORT_SEED = 20_261_127


def short_or_long(short: T, long: T) -> T:
    """The size of a test in this run."""
    return long if IS_LONG else short


def on(short: Literal["sqlite", "postgres"]) -> pytest.MarkDecorator:
    """The database of a costly test: one in the short form, both in the long one. It takes `migrated_url`."""
    postgres = pytest.param("postgres", marks=pytest.mark.postgres)
    one = postgres if short == "postgres" else "sqlite"
    return pytest.mark.parametrize("migrated_url", ["sqlite", postgres] if IS_LONG else [one], indirect=True)


def seed_of_run() -> int:
    """The seed from the environment; else a fixed one for the short form and a new one for each long run."""
    given = os.environ.get("SPANLOOM_FAULTS_SEED")
    if given:
        return int(given)
    return time.time_ns() % 1_000_000_007 if IS_LONG else _SHORT_SEED


SEED = seed_of_run()


@lru_cache(maxsize=1)
def commit_of_tree() -> str:
    """The tested commit, with a plus if files differ from it."""
    root = Path(__file__).parents[2]
    commit = _git(root, "rev-parse", "--short=12", "HEAD")
    if commit is None:
        return "unknown"
    return commit + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")


class FewerFaultsThanPlanned(AssertionError):
    """Fewer faults hit than planned, so that the test proves less than it claims."""


class GoalMissed(AssertionError):
    """A result of the faults breaks its bound."""


@dataclass(frozen=True, slots=True)
class Goal:
    """One measurement and its bound; `at_most` or `at_least` is null."""

    what: str
    found: float
    at_most: float | None
    at_least: float | None

    @property
    def is_reached(self) -> bool:
        """Whether the bound holds; NaN holds no bound."""
        above = self.at_least is None or self.found >= self.at_least
        below = self.at_most is None or self.found <= self.at_most
        return above and below

    def sentence(self) -> str:
        """The text for the table."""
        bounds = [f"≤ {self.at_most:g}" if self.at_most is not None else ""]
        bounds += [f"≥ {self.at_least:g}" if self.at_least is not None else ""]
        return f"{self.what} {self.found:g} ({' '.join(filter(None, bounds))})"


@dataclass(slots=True)
class Figure:
    """The plan and the results of one test."""

    fault: str
    """The row of reliability.md, such as F9."""
    variant: str
    """What distinguishes it from other tests of the same fault, such as the database."""
    seed: int
    planned: dict[str, int]
    hits: Counter[str] = field(default_factory=Counter)
    goals: list[Goal] = field(default_factory=list)
    sizes: dict[str, float] = field(default_factory=dict)

    @property
    def random(self) -> Random:
        """A new source of chance, the same for each run with this seed."""
        return self.chance("")

    def chance(self, purpose: str) -> Random:
        """A source of chance for one of several purposes."""
        return Random(f"{self.seed} {self.fault} {self.variant} {purpose}")

    def hit(self, fault: str, count: int = 1) -> None:
        """Count a planned fault that really happened."""
        self.hits[fault] += count

    def size(self, what: str, count: float) -> None:
        """Record the amount of work done; it has no bound."""
        self.sizes[what] = count

    def reach(self, what: str, found: float, *, at_most: float | None = None, at_least: float | None = None) -> None:
        """Record a measurement with a bound, which is checked when the figure is closed."""
        self.goals.append(Goal(what, found, at_most, at_least))

    def none(self, what: str, found: Iterable[object]) -> None:
        """Record violations, of which there must be none; the message shows the first few."""
        listed = list(found)
        self.reach(what, len(listed), at_most=0)
        if listed:
            shown = "\n".join(str(one) for one in listed[:20])
            raise GoalMissed(f"{self.fault}: {len(listed)} {what}, seed {self.seed}:\n{shown}")

    def check(self) -> None:
        """Raises `GoalMissed` or `FewerFaultsThanPlanned`."""
        missed = [goal.sentence() for goal in self.goals if not goal.is_reached]
        if missed:
            raise GoalMissed(f"{self.fault}, seed {self.seed}: {'; '.join(missed)}")
        fewer = [
            f"{self.hits[name]} of {count} {name}" for name, count in self.planned.items() if self.hits[name] < count
        ]
        if fewer:
            raise FewerFaultsThanPlanned(f"{self.fault}, seed {self.seed}: only {', '.join(fewer)} have hit")

    def document(self) -> str:
        """The form in which a test report carries it."""
        return json.dumps(
            {
                "fault": self.fault,
                "variant": self.variant,
                "seed": self.seed,
                "planned": self.planned,
                "hits": dict(self.hits),
                "goals": [[goal.what, goal.found, goal.at_most, goal.at_least] for goal in self.goals],
                "sizes": self.sizes,
            }
        )

    @classmethod
    def read(cls, document: str) -> Self:
        """Read what `document` wrote."""
        said = json.loads(document)
        return cls(
            said["fault"],
            said["variant"],
            said["seed"],
            said["planned"],
            Counter(said["hits"]),
            [Goal(*goal) for goal in said["goals"]],
            said["sizes"],
        )


@dataclass(slots=True)
class Figures:
    """Opens the figure of a test."""

    report: list[tuple[str, object]]
    """The properties of the test's report."""
    variant: str = ""

    @contextmanager
    def __call__(self, fault: str, **planned: int) -> Iterator[Figure]:
        """A figure until the block ends, in the table whatever happens; then it is checked."""
        figure = Figure(fault, self.variant, SEED, {name.replace("_", " "): count for name, count in planned.items()})
        try:
            yield figure
        finally:
            self.report.append((PROPERTY, figure.document()))
        figure.check()


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """A figure is opened as a context: of the fault F9, say, with five restarts planned."""
    call = getattr(request.node, "callspec", None)
    return Figures(request.node.user_properties, call.id if call else "")


@dataclass(frozen=True, slots=True)
class Reported:
    """A figure, and how its test came out."""

    figure: Figure
    test: str
    outcome: str
    seconds: float


def reported(reports: Iterable[pytest.TestReport]) -> list[Reported]:
    """The figures in these reports, by fault."""
    found = [
        Reported(Figure.read(str(value)), report.nodeid, report.outcome, report.duration)
        for report in reports
        if report.when == "call"
        for name, value in report.user_properties
        if name == PROPERTY
    ]
    return sorted(found, key=lambda one: (int(one.figure.fault.lstrip("FI") or 0), one.test))


def table(found: Iterable[Reported]) -> list[str]:
    """The lines of the table."""
    lines = []
    for one in found:
        figure = one.figure
        name = f"{figure.fault} {figure.variant}".strip()
        faults = ", ".join(f"{figure.hits[each]}/{count} {each}" for each, count in figure.planned.items())
        sizes = ", ".join(f"{count:g} {what}" for what, count in figure.sizes.items())
        goals = "; ".join(goal.sentence() for goal in figure.goals)
        parts = [part for part in (sizes, faults and f"hit {faults}", goals) if part]
        lines.append(f"{name:<14} {one.outcome}  seed {figure.seed}  {one.seconds:.1f} s  {' | '.join(parts)}")
    return lines


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
