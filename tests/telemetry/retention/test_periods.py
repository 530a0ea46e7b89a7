"""The most specific rule counts, for each period by itself."""

from datetime import timedelta
from typing import cast

import pytest
from sqlalchemy.engine import RowMapping

from engine.database.database import Database
from telemetry.retention.job import Retention
from telemetry.retention.periods import Periods, Policy, Rule, read_rules, set_rule, unset_rule

SETTINGS = Periods(content=timedelta(days=30), spans=timedelta(days=90))
RULES = [
    Rule(owner="ann", template="chat", spans_days=1),
    Rule(template="chat", spans_days=3, records_days=300),
    Rule(template="search", spans_days=7),
    Rule(owner="ann", spans_days=2, content_days=20),
]


def record(owner: str, name: str, *, source: str = "template", template_id: str | None = "t-1") -> RowMapping:
    cells = {"owner_id": owner, "workflow_name": name, "workflow_source": source, "template_id": template_id}
    return cast(RowMapping, cells)


@pytest.mark.parametrize(
    ("execution", "content", "spans", "records"),
    [
        (record("ben", "other"), 30, 90, None),
        (record("ann", "other"), 20, 2, None),
        (record("ben", "chat"), 30, 3, 300),
        (record("ann", "chat"), 20, 1, 300),
        (record("ann", "search"), 20, 2, None),
        (record("ben", "chat", source="graph", template_id=None), 30, 90, None),
    ],
)
def test_the_most_specific_rule_counts(execution: RowMapping, content: int, spans: int, records: int | None) -> None:
    found = Policy(SETTINGS, RULES).of(execution)
    days = None if found.records is None else found.records.days
    assert (found.content.days, found.spans.days, days) == (content, spans, records)


def test_a_template_is_named_by_its_id_too() -> None:
    policy = Policy(SETTINGS, [Rule(template="t-1", spans_days=4)])
    assert policy.of(record("ben", "chat")).spans.days == 4


def test_what_is_younger_than_the_shortest_period_is_not_looked_at() -> None:
    shortest = Policy(SETTINGS, RULES).shortest
    assert (shortest.content.days, shortest.spans.days) == (20, 1)
    assert shortest.records == timedelta(days=300)


def test_nothing_outlives_its_record() -> None:
    periods = Periods(records=timedelta(days=10))
    assert (periods.content_at_most.days, periods.spans_at_most.days) == (10, 10)


def test_an_answer_outlives_a_short_record_for_the_idempotency_window() -> None:
    periods = Periods(content=timedelta(hours=2), records=timedelta(hours=1), idempotency=timedelta(hours=24))
    assert periods.content_at_most == timedelta(hours=24)


async def test_rules_are_stored_replaced_and_deleted(database: Database) -> None:
    for rule in (*RULES, Rule(owner="ann", spans_days=5)):
        async with database.begin() as connection:
            await set_rule(connection, rule)
    async with database.begin() as connection:
        assert await unset_rule(connection, "", "chat")
        assert not await unset_rule(connection, "", "chat")
        stored = await read_rules(connection)
    assert stored == [
        Rule(template="search", spans_days=7),
        Rule(owner="ann", spans_days=5),
        Rule(owner="ann", template="chat", spans_days=1),
    ]


@pytest.mark.parametrize("days", [1e6, 1e12, float("inf")])
async def test_a_rule_longer_than_the_calendar_keeps_for_as_long_as_there_is(database: Database, days: float) -> None:
    """One rule, however it was stored, must not keep everything else from being deleted."""
    async with database.begin() as connection:
        await set_rule(connection, Rule("ann", spans_days=days, records_days=days))
    report = await Retention(database, SETTINGS).find_due()
    assert report.rows.total() == 0


def test_a_rule_that_is_no_number_keeps() -> None:
    found = Policy(SETTINGS, [Rule("ann", spans_days=float("nan"))]).of(record("ann", "other"))
    assert found.spans > timedelta(days=36_000)
