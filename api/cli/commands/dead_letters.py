"""`spanloom dead-letters`: list signals that a consumer could not store, and try them again."""

from dataclasses import asdict

from api.cli import interrupts, terminal
from api.cli.database_reads import check_exists
from api.cli.exit_codes import BAD_NEWS, DONE
from api.cli.rendering.formatting import plural
from api.cli.rendering.tables import dead_letters_table
from api.settings import Settings
from api.wiring.database import open_database
from api.wiring.recovery import build_replay
from telemetry.recovery.replay import DeadLetterGroup, Replayed, group_dead_letters


def list_or_replay(*, replay: bool, as_json: bool) -> int:
    """List dead letters. With `replay`, try them again first; 1 if some remain."""
    settings = terminal.begin()
    check_exists(settings)
    done, found = interrupts.run(_read(settings, replay=replay))
    if as_json:
        stored = {} if done is None else {"stored": done.stored}
        terminal.show_json(stored | {"items": [asdict(group) for group in found]})
    else:
        if done is not None:
            print(f"Stored {plural(done.stored, 'dead letter')}.")
        terminal.show(dead_letters_table(found))
    return BAD_NEWS if done is not None and found else DONE


async def _read(settings: Settings, *, replay: bool) -> tuple[Replayed | None, list[DeadLetterGroup]]:
    async with open_database(settings) as database:
        done = await build_replay(settings, database).try_all() if replay else None
        async with database.read() as connection:
            return done, await group_dead_letters(connection)
