"""The comparison of all books there are, from the first execution to now. Tests and measurements end with it."""

from collections.abc import Sequence
from datetime import UTC, datetime

from engine.database.database import Database
from telemetry.reconcile.compare import compare_books
from telemetry.reconcile.findings import Difference
from telemetry.reconcile.window import HOUR, Window
from telemetry.signals.records import EPOCH


async def check_books(database: Database) -> list[str]:
    """Every difference as a sentence that names the execution or roll-up row; empty if the books agree."""
    return [str(difference) for difference in await find_differences(database)]


async def find_differences(database: Database) -> Sequence[Difference]:
    """Every difference in the books."""
    window = Window.around(EPOCH, datetime.now(UTC) + HOUR)
    return (await compare_books(database, window)).differences
