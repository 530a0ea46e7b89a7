"""`spanloom migrate`: upgrading and checking the schema."""

import asyncio
import sqlite3
from contextlib import closing

from sqlalchemy import text

from engine.database import migrations
from engine.database.database import Database
from engine.security.sealing import Sealer
from engine.store.checkpoints import open_checkpoints
from telemetry.webhooks.endpoints import NewEndpoint, create
from tests.api.cli.shell import Shell
from tests.attacks.pseudo_terminal import run_on_terminal
from tests.house.lock import ROOT


def make_checkpoint_tables(url: str) -> None:
    """As the first run with checkpoints does."""

    async def make() -> None:
        async with open_checkpoints(url) as checkpoints:
            await checkpoints.setup()

    asyncio.run(make())


def test_migrate_brings_the_schema_and_check_compares_it(shell: Shell) -> None:
    waiting = shell.run("migrate", "--check")
    assert (waiting.returncode, "Run `spanloom migrate`" in waiting.stdout) == (1, True)
    assert shell.run("migrate").returncode == 0
    make_checkpoint_tables(f"sqlite:///{shell.folder / 'spanloom.db'}")
    assert shell.run("migrate", "--check").returncode == 0
    with sqlite3.connect(shell.folder / "spanloom.db") as database:
        database.execute("ALTER TABLE executions ADD COLUMN stray TEXT")
    database.close()
    other = shell.run("migrate", "--check")
    assert (other.returncode, "stray" in other.stdout) == (1, True)
    assert "CREATE TABLE executions" in shell.run("migrate", "--sql").stdout


def test_going_back_says_what_it_deletes_and_asks(shell: Shell) -> None:
    assert shell.run("migrate").returncode == 0
    with closing(sqlite3.connect(shell.folder / "spanloom.db")) as database, database:
        _fill(database, "reconcile_runs")
    refused = shell.run("migrate", "--to", "0003")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        "spanloom: Going back to 0003 deletes 1 row of reconcile_runs. Back up the database, then add --yes.\n"
    )
    done = shell.json("migrate", "--to", "0003", "--yes")
    assert (done["revision"], done["undone"][-1]) == ("0003", "0004")
    assert done["lost"] == [{"table": "reconcile_runs", "column": None, "count": 1}]
    assert shell.run("migrate", "--check").returncode == 1
    assert shell.run("migrate", "--to", "head").returncode == 0
    assert shell.run("migrate", "--check").returncode == 0


def _fill(database: sqlite3.Connection, table: str) -> None:
    """One row."""
    columns = [(row[1], row[2]) for row in database.execute(f"PRAGMA table_info({table})")]
    values = [1 if "INT" in kind or "BOOL" in kind else "{}" for _, kind in columns]
    database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)


def test_going_back_loses_nothing_where_nothing_is_and_does_not_ask(shell: Shell) -> None:
    assert shell.run("migrate").returncode == 0
    script = shell.run("migrate", "--to", "0007", "--sql").stdout
    assert "ALTER TABLE webhook_endpoints DROP COLUMN sealed_url" in script
    done = shell.run("migrate", "--to", "0007")
    assert done.returncode == 0, done.stderr
    undone = len(list((ROOT / "migrations" / "versions").glob("[0-9]*.py"))) - 7
    assert f"is at revision 0007: {undone} migrations undone. Now install the version of spanloom" in done.stdout
    assert shell.run("migrate", "--to", "0007").stdout.endswith("is at revision 0007.\n")


def test_a_revision_that_does_not_exist_is_named(shell: Shell) -> None:
    done = shell.run("migrate", "--to", "9999")
    assert (done.returncode, "no revision 9999; it has base, 0001," in done.stderr) == (3, True)
    assert shell.run("migrate", "--to", "0001", "--check").returncode == 2
    assert not (shell.folder / "spanloom.db").exists()


def test_a_person_who_does_not_type_yes_keeps_the_data(shell: Shell) -> None:
    assert shell.run("migrate").returncode == 0
    with closing(sqlite3.connect(shell.folder / "spanloom.db")) as database, database:
        _fill(database, "reconcile_runs")
    code, shown = run_on_terminal(shell.folder, "migrate", "--to", "base", typed="no\n")
    assert (code, "1 row of reconcile_runs" in shown, "Nothing was changed." in shown) == (2, True, True)
    code, shown = run_on_terminal(shell.folder, "migrate", "--to", "base", typed="yes\n")
    assert (code, "is at revision base" in shown) == (0, True)


async def test_a_downgrade_disables_endpoints_whose_url_it_cannot_open(migrated_url: str) -> None:
    async with Database(migrated_url) as database:
        async with database.begin() as connection:
            for url in ("https://h.example/a?token=secret", "https://h.example/b"):
                new = NewEndpoint(url, ["workflow.execution.failed"])
                await create(connection, "default", new, Sealer(lambda: ["a key of the tests"]))
        await migrations.downgrade(migrated_url, "0008")
        async with database.read() as connection:
            rows = (await connection.execute(text("SELECT url, status FROM webhook_endpoints ORDER BY url"))).all()
    assert [tuple(row) for row in rows] == [
        ("https://h.example/a?token=***", "disabled"),
        ("https://h.example/b", "active"),
    ]
