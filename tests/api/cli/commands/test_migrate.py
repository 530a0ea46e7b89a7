"""`spanloom migrate`: upgrading and checking the schema."""

import asyncio
import sqlite3

from engine.store.checkpoints import open_checkpoints
from tests.api.cli.shell import Shell


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
