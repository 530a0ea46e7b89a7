"""Lets leases expire without waiting."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import update

from engine.database.database import Database
from engine.store.tables import execution_control


async def end_leases(database: Database, *, age_seconds: float = 3_600) -> None:
    """Let every lease expire, of processes that had run for so long."""
    async with database.begin() as connection:
        past = datetime.now(UTC) - timedelta(hours=1)
        leased = execution_control.c.lease_owner.is_not(None)
        await connection.execute(
            update(execution_control).where(leased).values(lease_until=past, lease_age_seconds=age_seconds)
        )
