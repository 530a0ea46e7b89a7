"""`spanloom cost`: what executions cost, per group."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from difflib import get_close_matches

from sqlalchemy.ext.asyncio import AsyncConnection

from api.cli import terminal
from api.cli.database_reads import read
from api.cli.errors import wrong_use
from api.cli.exit_codes import DONE
from api.cli.rendering.tables import DemoShare, cost_table
from api.schemas import executions
from engine.models.offline import OFFLINE
from telemetry.reads.cost import CostReport
from telemetry.reads.cost import cost as query_cost
from telemetry.reads.cost_query import DIMENSIONS, CostFilter, is_dimension


def show_cost(
    by: Sequence[str], template: str | None, since: datetime | None, until: datetime | None, *, as_json: bool
) -> int:
    """Print the cost per group, and the total."""
    settings = terminal.begin()
    dimensions = _dimensions(by)
    wanted = CostFilter(template=template, since=since, until=until)
    report, demo = read(settings, lambda connection: cost_report(connection, wanted, dimensions))
    if as_json:
        terminal.show_json(executions.cost(report).model_dump(mode="json"))
    else:
        terminal.show(cost_table(report, demo))
    return DONE


async def cost_report(
    connection: AsyncConnection, wanted: CostFilter, by: Sequence[str]
) -> tuple[CostReport, DemoShare]:
    """The report, and the part of it that is the offline model's."""
    report = await query_cost(connection, wanted, by)
    offline = await query_cost(connection, replace(wanted, provider=OFFLINE[0]), by)
    groups = frozenset(row.group for row in offline.rows if row.sums.priced_nano_usd)
    return report, DemoShare(offline.total.priced_nano_usd, groups)


def _dimensions(by: Sequence[str]) -> tuple[str, ...]:
    names = [name.strip() for each in by for name in each.split(",")]
    for name in names:
        if not is_dimension(name):
            near = get_close_matches(name, DIMENSIONS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            wrong_use(f"Cannot group by {name!r}.{hint} Valid groups: {', '.join(DIMENSIONS)}.")
    return tuple(dict.fromkeys(names))
