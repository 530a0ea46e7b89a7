"""Drivers that lose answers: a COMMIT succeeds, and then the connection breaks.

Patched is the driver itself, below SQLAlchemy, so that everything above sees what it would see of a real network.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random

import aiosqlite
import asyncpg  # type: ignore[import-untyped]  # asyncpg ships no types
import pytest
from asyncpg.transaction import Transaction  # type: ignore[import-untyped]


@dataclass(slots=True)
class LostAnswers:
    """How many COMMITs there were, and how many of them lost their answer."""

    share: float
    commits: int = 0
    lost: int = 0


@contextmanager
def losing_answers(random: Random, share: float) -> Iterator[LostAnswers]:
    """While the block runs, this share of the COMMITs of this process is done and then fails, on both databases."""
    count = LostAnswers(share)
    commit_postgres, commit_sqlite = Transaction.commit, aiosqlite.Connection.commit

    def is_lost() -> bool:
        count.commits += 1
        if random.random() >= count.share:
            return False
        count.lost += 1
        return True

    async def on_postgres(transaction: Transaction) -> None:
        connection = transaction._connection
        await commit_postgres(transaction)
        if is_lost():
            connection.terminate()
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")

    async def on_sqlite(connection: aiosqlite.Connection) -> None:
        was_open = connection.in_transaction
        await commit_sqlite(connection)
        if was_open and is_lost():
            raise sqlite3.OperationalError("disk I/O error")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transaction, "commit", on_postgres)
        patch.setattr(aiosqlite.Connection, "commit", on_sqlite)
        yield count
