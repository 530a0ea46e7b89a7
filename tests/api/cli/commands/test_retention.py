"""`spanloom retention` shows what is due, deletes it, and keeps rules."""

import asyncio
import json
from datetime import timedelta

import pytest

from engine.database.database import Database
from telemetry.store.tables import executions, spans
from tests.api.routers.test_reconcile import spanloom
from tests.both_modes import count
from tests.telemetry.bookkeeper import bookkeeper
from tests.telemetry.retention.history import make_history

pytestmark = pytest.mark.usefixtures("books_left_open")  # control rows are gone


async def make_old_executions(url: str) -> None:
    async with Database(url) as database, bookkeeper(database) as keeper:
        await make_history(keeper, 3, since=timedelta(days=100), span=timedelta(days=1))


async def test_it_shows_what_would_go_and_then_deletes_it(migrated_sqlite_url: str) -> None:
    await make_old_executions(migrated_sqlite_url)

    planned = await asyncio.to_thread(spanloom, migrated_sqlite_url, "retention", "--dry-run", "--json")
    async with Database(migrated_sqlite_url) as database:
        assert await count(database, spans) == 18
    done = await asyncio.to_thread(spanloom, migrated_sqlite_url, "retention")
    again = await asyncio.to_thread(spanloom, migrated_sqlite_url, "retention", "--dry-run", "--json")

    assert (planned.returncode, done.returncode) == (0, 0), planned.stderr + done.stderr
    plan = json.loads(planned.stdout)
    assert {name: table["rows"] for name, table in plan["tables"].items()} == {"execution_control": 3, "spans": 18}
    assert plan["kept_back"] == {}
    deleted = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "18" in deleted["spans"]
    assert "3" in deleted["execution_control"]
    assert json.loads(again.stdout)["tables"] == {}
    async with Database(migrated_sqlite_url) as database:
        assert (await count(database, spans), await count(database, executions)) == (0, 3)


async def test_a_rule_is_set_shown_and_unset(migrated_sqlite_url: str) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        done = spanloom(migrated_sqlite_url, "retention", *arguments)
        return done.returncode, done.stdout + done.stderr

    code, shown = await asyncio.to_thread(run, "set", "--owner", "ann", "--spans-days", "10")
    assert (code, "10 d" in shown) == (0, True)
    code, listed = await asyncio.to_thread(run, "rules", "--json")
    assert json.loads(listed)["items"] == [
        {"owner": "ann", "template": "", "content_days": None, "spans_days": 10.0, "records_days": None}
    ]
    assert (await asyncio.to_thread(run, "unset", "--owner", "ann"))[0] == 0
    assert (await asyncio.to_thread(run, "unset", "--owner", "ann"))[0] == 1
    code, said = await asyncio.to_thread(run, "set", "--spans-days", "10")
    assert (code, "--owner or --template" in said) == (2, True)
    code, said = await asyncio.to_thread(run, "set", "--owner", "ann", "--spans-days", "0")
    assert code == 2


async def test_a_record_without_spans_says_so(migrated_sqlite_url: str) -> None:
    await make_old_executions(migrated_sqlite_url)
    await asyncio.to_thread(spanloom, migrated_sqlite_url, "retention")

    shown = await asyncio.to_thread(spanloom, migrated_sqlite_url, "executions", "show", "last")
    drawn = await asyncio.to_thread(spanloom, migrated_sqlite_url, "trace", "last")
    document = await asyncio.to_thread(spanloom, migrated_sqlite_url, "executions", "show", "last", "--json")

    assert "6/6 spans, deleted" in shown.stdout
    assert "the spans were deleted" in drawn.stdout
    assert json.loads(document.stdout)["seal"]["pruned_at"] is not None


@pytest.mark.parametrize("days", ["0", "nan", "36501"])
async def test_a_rule_for_no_time_or_beyond_the_calendar_is_refused(migrated_sqlite_url: str, days: str) -> None:
    arguments = ("retention", "set", "--owner", "ann", f"--spans-days={days}")
    done = await asyncio.to_thread(spanloom, migrated_sqlite_url, *arguments)
    assert done.returncode == 2
    assert "--spans-days lies between an hour, 0.042, and 36500 days" in done.stderr


async def test_a_dry_run_of_a_rule_sets_none(migrated_sqlite_url: str) -> None:
    arguments = ("retention", "--dry-run", "set", "--owner", "ann", "--spans-days", "1")
    done = await asyncio.to_thread(spanloom, migrated_sqlite_url, *arguments)
    rules = await asyncio.to_thread(spanloom, migrated_sqlite_url, "retention", "rules", "--json")
    assert (done.returncode, json.loads(rules.stdout)["items"]) == (2, [])


@pytest.mark.parametrize("command", [("set", "--spans-days", "1"), ("unset",)])
async def test_an_owner_that_is_no_text_is_refused(migrated_sqlite_url: str, command: tuple[str, ...]) -> None:
    arguments = ("retention", *command, "--owner", "a\udcff")  # the byte FF, as Python reads it from a terminal
    done = await asyncio.to_thread(spanloom, migrated_sqlite_url, *arguments)
    assert (done.returncode, "UTF-8" in done.stderr) == (2, True), done.stderr
