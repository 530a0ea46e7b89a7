"""Tables of `spanloom retention`: what is deleted, and the rules."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from api.cli.rendering.formatting import UNKNOWN, count, moment, plural, size
from api.cli.rendering.plain import plain
from api.cli.rendering.tables import plain_table
from telemetry.reads.sizes import Sizes
from telemetry.retention.job import RetentionReport
from telemetry.retention.periods import Rule


def retention_table(report: RetentionReport, sizes: Sizes, *, dry_run: bool) -> RenderableType:
    """One line per table with rows that are due, the size of the tables, and what is kept although it is due."""
    parts: list[RenderableType] = []
    due = {name: table for name, table in report.tables.items() if table.rows}
    if due:
        table = plain_table("table", "oldest (UTC)", right=["would go" if dry_run else "deleted", "size"])
        for name, one in due.items():
            table.add_row(name, moment(one.oldest), count(one.rows), _size(sizes.tables.get(name)))
        parts.append(table)
    else:
        parts.append(Text("Nothing is due."))
    parts += [
        Text(f"Kept though due, because {reason.value}: {plural(number, 'execution')}.", style="dim")
        for reason, number in report.held.items()
    ]
    parts.append(Text(f"The database has {size(sizes.total)}.", style="dim"))
    return Group(*parts)


def rules_table(rules: Sequence[Rule]) -> RenderableType:
    """One line per rule; an empty cell stands for what a wider rule or the settings say."""
    if not rules:
        return Text("No rules. Set one: spanloom retention set --owner OWNER --spans-days 10")
    table = plain_table("owner", "template", right=["content", "spans", "records"])
    for rule in plain(rules):
        days = (rule.content_days, rule.spans_days, rule.records_days)
        table.add_row(rule.owner or "any", rule.template or "any", *map(_days, days))
    return table


def _days(days: float | None) -> str:
    return "" if days is None else f"{days:g} d"


def _size(bytes_: int | None) -> str:
    return UNKNOWN if bytes_ is None else size(bytes_)
