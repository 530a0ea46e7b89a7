"""The dashboards, and all their queries."""

from collections.abc import Iterator
from dataclasses import dataclass

from dashboards.call_boards import MODELS, NODE_BOARD
from dashboards.cost_board import COSTS
from dashboards.grafana_json import to_json
from dashboards.overview_board import OVERVIEW
from dashboards.panels import Origin
from dashboards.queries import RANGE, RATE
from dashboards.telemetry_board import TELEMETRY

BOARDS = (OVERVIEW, COSTS, NODE_BOARD, MODELS, TELEMETRY)


def board_files() -> dict[str, str]:
    """The JSON of each dashboard, by file name."""
    return {f"{board.slug}.json": to_json(board) for board in BOARDS}


@dataclass(frozen=True, slots=True)
class PanelQuery:
    """One query of a panel, ready to send to Prometheus."""

    board: str
    panel: str
    expr: str
    origin: Origin
    has_exemplars: bool


def filled(expr: str, *, window: str = "5m", workflow: str = ".*", ratio_window: str = "1h") -> str:
    """A query with Grafana's variables filled in, ready to send to Prometheus."""
    for name, value in {RATE: window, RANGE: window, "$workflow": workflow, "$window": ratio_window}.items():
        expr = expr.replace(name, value)
    return expr


def panel_queries(*, window: str = "5m") -> Iterator[PanelQuery]:
    """Every query of every dashboard, of all workflows."""
    for board in BOARDS:
        for panel in board.panels():
            for query in panel.queries:
                expr = filled(query.expr, window=window)
                yield PanelQuery(board.slug, panel.title, expr, query.origin, query.exemplars)
