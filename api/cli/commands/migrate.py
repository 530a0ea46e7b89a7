"""`spanloom migrate`: upgrade or check the database schema, or go to another revision of it."""

import sys
from dataclasses import asdict

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from api.access.tables import api_keys
from api.cli import interrupts, terminal
from api.cli.errors import wrong_use
from api.cli.exit_codes import BAD_NEWS, DONE
from api.cli.rendering.formatting import plural
from engine.database import migrations
from engine.database.database import Database, parse_url, safe_name
from engine.store.tables import execution_control
from telemetry.store.retention_tables import retention_rules
from telemetry.store.score_tables import execution_scores
from telemetry.store.tables import executions

_OF_CHECKPOINTS = frozenset({"checkpoints", "checkpoint_blobs", "checkpoint_writes", "checkpoint_migrations", "writes"})
"""Tables that LangGraph's savers create and change themselves."""
_COMPARED = {
    "compare_type": True,
    "compare_server_default": True,
    "include_name": lambda name, kind, parents: kind != "table" or name not in _OF_CHECKPOINTS,
}


def run_migration(*, check: bool, sql: bool, as_json: bool) -> int:
    """Upgrade the schema; or only check it, or only print its SQL."""
    url = terminal.begin().database_url
    if sql:
        print(migrations.sql(url))
        return DONE
    waiting = interrupts.run(migrations.pending(url))
    if not check and waiting:
        interrupts.run(migrations.upgrade(url))
    differences = interrupts.run(_differences(url)) if check and not waiting else []
    name = safe_name(parse_url(url))
    if as_json:
        terminal.show_json({"database": name, "pending" if check else "run": waiting, "differences": differences})
    elif check:
        print(_verdict(name, waiting, differences))
    else:
        print(f"{name}: {plural(len(waiting), 'migration')} applied." if waiting else f"{name} is up to date.")
    return BAD_NEWS if check and (waiting or differences) else DONE


def move_to(revision: str, *, yes: bool, sql: bool, as_json: bool) -> int:
    """Go to a revision. Before a downgrade deletes data, it says which and asks. Raises `WrongUse`."""
    url = terminal.begin().database_url
    move = interrupts.run(migrations.find_move(url, revision))
    if sql:
        print(move.sql(url))
        return DONE
    lost = interrupts.run(migrations.losses(url, move)) if move.is_down else []
    if lost and not yes:
        _ask(move, lost, as_json=as_json)
    if move.revisions:
        interrupts.run((migrations.downgrade if move.is_down else migrations.upgrade)(url, move.end))
    name = safe_name(parse_url(url))
    if as_json:
        done = {"undone" if move.is_down else "run": move.revisions, "lost": [asdict(loss) for loss in lost]}
        terminal.show_json({"database": name, "revision": move.end, **done})
    else:
        print(_moved(name, move))
    return DONE


def _ask(move: migrations.Move, lost: list[migrations.Loss], *, as_json: bool) -> None:
    """Raises `WrongUse` unless the person at the terminal agrees."""
    deleted = f"Going back to {move.end} deletes {', '.join(map(str, lost))}"
    if as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        wrong_use(f"{deleted}. Back up the database, then add --yes.")
    print(f"{deleted}. It cannot be undone.\nType yes to go on: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() != "yes":
        wrong_use("Nothing was changed.")


def _moved(name: str, move: migrations.Move) -> str:
    if not move.revisions:
        return f"{name} is at revision {move.end}."
    count = plural(len(move.revisions), "migration")
    if not move.is_down:
        return f"{name} is at revision {move.end}: {count} applied."
    return (
        f"{name} is at revision {move.end}: {count} undone. "
        "Now install the version of spanloom that has this revision; this one would upgrade it again."
    )


def _verdict(name: str, waiting: list[str], differences: list[str]) -> str:
    if waiting:
        return f"{name} is not up to date: {', '.join(waiting)} not applied. Run `spanloom migrate`."
    if differences:
        return "\n".join([f"{name} differs from the schema of this version:", *(f"  {one}" for one in differences)])
    return f"{name} is up to date."


async def _differences(url: str) -> list[str]:
    async with Database(url) as database, database.read() as connection:
        return await connection.run_sync(_compare)


def _compare(connection: Connection) -> list[str]:
    """The differences between the tables of the database and those of this version."""
    metadata = executions.metadata
    for table in (execution_control, retention_rules, execution_scores, api_keys):
        assert table.metadata is metadata, "the engine and telemetry share one metadata"
    context = MigrationContext.configure(connection, opts=dict(_COMPARED))
    return [str(difference) for difference in compare_metadata(context, metadata)]
