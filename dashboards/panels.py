"""What a dashboard is made of, as data; `grafana_json` writes it for Grafana."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Origin(StrEnum):
    """The source of a query's metrics."""

    SERVICE = "service"
    """`/metrics` of the service, in either mode."""
    RULES = "rules"
    """Recording rules in Prometheus."""
    COLLECTOR = "collector"
    """The Collector's own metrics; empty without a Collector."""


class Shape(StrEnum):
    """How a panel shows its queries."""

    LINES = "lines"
    NUMBER = "number"
    """One number, coloured by the steps."""
    TABLE = "table"
    """One column per query, one row per workflow."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query that draws one or several lines, or fills a column."""

    expr: str
    legend: str = ""
    exemplars: bool = False
    origin: Origin = Origin.SERVICE


@dataclass(frozen=True, slots=True)
class Step:
    """From this value on a number has this colour; null is the colour of the smallest values."""

    value: float | None
    color: str


PLAIN = (Step(None, "text"),)
"""Neither good nor bad, as a count or a sum of money."""


def good_below(*, warning: float, bad: float) -> tuple[Step, ...]:
    """Green, then orange from `warning`, then red from `bad`; without orange if they are equal."""
    orange = [Step(warning, "orange")] if warning < bad else []
    return Step(None, "green"), *orange, Step(bad, "red")


def good_from(good: float, *, warning: float) -> tuple[Step, ...]:
    """Red, then orange from `warning`, then green from `good`."""
    return Step(None, "red"), Step(warning, "orange"), Step(good, "green")


@dataclass(frozen=True, slots=True)
class Column:
    """The title of a query's column in a table, and how its cells look."""

    title: str
    unit: str = "short"
    decimals: int | None = None
    steps: Sequence[Step] = PLAIN
    is_bar: bool = False
    """A bar from 0 to 1 behind the number."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. Units are Grafana's; `width` is in columns of 24."""

    title: str
    description: str
    queries: Sequence[Query]
    unit: str = "short"
    width: int = 12
    shape: Shape = Shape.LINES
    axis: str = ""
    """What the axis counts, where the unit does not say it."""
    is_stacked: bool = False
    decimals: int | None = None
    """Null leaves it to Grafana."""
    steps: Sequence[Step] = ()
    """Colours of a number. Lines are drawn at the steps, or the area is tinted where `is_zoned`."""
    is_zoned: bool = False
    colors: Mapping[str, str] = field(default_factory=dict)
    """The colours of series that mean good or bad, by name."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Words shown instead of values, as `1`."""
    columns: Sequence[Column] = ()
    """Of a table, one per query."""


@dataclass(frozen=True, slots=True)
class Row:
    """A titled row of panels."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard."""

    slug: str
    title: str
    description: str
    rows: Sequence[Row]
    has_workflow: bool = True
    """Whether its panels are filtered by workflow."""
    has_window: bool = False
    """Whether the window of its burn rate is chosen."""

    def panels(self) -> Iterator[Panel]:
        """All panels, in order."""
        for row in self.rows:
            yield from row.panels
