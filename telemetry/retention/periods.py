"""How long rows are kept: the periods of the settings, and the rules of owners and templates that differ from them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import insert
from telemetry.store.retention_tables import retention_rules

_MAX_DAYS = 36_500.0
"""A rule that another program stored may have any number, and one rule must not keep all others from being read."""


@dataclass(frozen=True, slots=True)
class Periods:
    """How long after the end of an execution its rows are kept."""

    content: timedelta = timedelta(days=30)
    spans: timedelta = timedelta(days=90)
    records: timedelta | None = None
    """Null: for ever. Nothing else of an execution outlives its record."""
    idempotency: timedelta = timedelta(hours=24)
    """How long an Idempotency-Key names the execution; its answer is kept for as long, however short `content` is."""
    webhooks: timedelta = timedelta(days=30)
    dead_letters: timedelta = timedelta(days=90)

    @property
    def content_at_most(self) -> timedelta:
        """The period of content, and of the control row that holds it."""
        return max(self.idempotency, self._within_records(self.content))

    @property
    def spans_at_most(self) -> timedelta:
        """The period of span rows."""
        return self._within_records(self.spans)

    def _within_records(self, period: timedelta) -> timedelta:
        return period if self.records is None else min(period, self.records)


@dataclass(frozen=True, slots=True)
class Rule:
    """The periods of an owner, of a template, or of both, in days; null: as a wider rule or the settings say."""

    owner: str = ""
    """`''` is every owner."""
    template: str = ""
    """Key or id; `''` is every template."""
    content_days: float | None = None
    spans_days: float | None = None
    records_days: float | None = None

    def applies_to(self, execution: RowMapping) -> bool:
        """Whether it is about the execution of this record."""
        names = {execution["template_id"], execution["workflow_name"]}
        is_of_template = execution["workflow_source"] == "template" and self.template in names
        return self.owner in ("", execution["owner_id"]) and (not self.template or is_of_template)


_DAYS = ("content_days", "spans_days", "records_days")


class Policy:
    """The periods of every execution. A rule of owner and template precedes one of the owner, then of the template."""

    def __init__(self, periods: Periods, rules: Sequence[Rule] = ()) -> None:
        self._rules = sorted(rules, key=lambda rule: (rule.owner != "", rule.template != ""))
        self.default = periods
        every = [periods, *(_changed(periods, rule) for rule in self._rules)]
        self.shortest = Periods(
            content=min(one.content for one in every),
            spans=min(one.spans for one in every),
            records=min((one.records for one in every if one.records is not None), default=None),
            idempotency=periods.idempotency,
            webhooks=periods.webhooks,
            dead_letters=periods.dead_letters,
        )
        """The shortest period of each kind: what is younger is kept in any case."""

    def of(self, execution: RowMapping) -> Periods:
        """The periods of the execution of this record."""
        found = self.default
        for rule in self._rules:
            if rule.applies_to(execution):
                found = _changed(found, rule)
        return found


def _changed(periods: Periods, rule: Rule) -> Periods:
    """The periods with those that the rule sets."""
    named = {name: getattr(rule, name) for name in _DAYS}
    changes = {
        name.removesuffix("_days"): timedelta(days=min(_MAX_DAYS, days))  # NaN is the maximum, too
        for name, days in named.items()
        if days is not None
    }
    return Periods(**{item.name: changes.get(item.name, getattr(periods, item.name)) for item in fields(Periods)})


async def read_rules(connection: AsyncConnection) -> list[Rule]:
    """All rules, by owner and template."""
    c = retention_rules.c
    statement = select(c.owner_id, c.template, *(c[name] for name in _DAYS)).order_by(c.owner_id, c.template)
    return [Rule(*row) for row in await connection.execute(statement)]


async def set_rule(connection: AsyncConnection, rule: Rule) -> None:
    """Store a rule; it replaces the one of the same owner and template."""
    values = asdict(rule)
    values["owner_id"] = values.pop("owner")
    statement = insert(connection.dialect, retention_rules).values(values)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["owner_id", "template"], set_={name: values[name] for name in _DAYS}
        )
    )


async def unset_rule(connection: AsyncConnection, owner: str, template: str) -> bool:
    """Delete a rule; whether there was one."""
    c = retention_rules.c
    gone = await connection.execute(delete(retention_rules).where(c.owner_id == owner, c.template == template))
    return bool(gone.rowcount)
