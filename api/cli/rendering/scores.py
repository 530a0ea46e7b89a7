"""Scores in the terminal: those of an execution, and the means of workflows."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from api.cli.rendering.formatting import UNKNOWN, count
from api.cli.rendering.plain import plain
from api.cli.rendering.tables import plain_table
from telemetry.reads.scores import Score, ScoreMean


def scores_view(scores: Sequence[Score]) -> RenderableType:
    """One line per score, with its comment."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for score in plain(scores):
        comment = f": {score.comment}" if score.comment else ""
        grid.add_row("score", f"{score.name} {_value(score.value)} ({score.source}){comment}")
    return grid


def means_table(means: Sequence[ScoreMean]) -> RenderableType:
    """One line per name, workflow, version and label."""
    if not means:
        return Text("No scores. Give one: spanloom executions score ID --name rating --value 4")
    table = plain_table("score", "workflow", right=["version", "scores", "mean", "least", "most"])
    for one in plain(means):
        name = one.name if one.label is None else f"{one.name} = {one.label}"
        version = UNKNOWN if one.template_version is None else str(one.template_version)
        table.add_row(name, one.workflow, version, count(one.scores), *map(_number, (one.mean, one.least, one.most)))
    return table


def _value(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.4g}"
