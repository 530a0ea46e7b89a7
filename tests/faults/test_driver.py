"""What was committed stays, although the driver says that the connection was lost."""

from random import Random

import pytest
from sqlalchemy import select, text

from engine.database.database import Database
from engine.errors import Unavailable
from tests.faults.driver import losing_answers


async def test_a_commit_whose_answer_is_lost_is_done(migrated_url: str) -> None:
    async with Database(migrated_url) as database:
        with losing_answers(Random(1), 1.0) as lost:
            with pytest.raises(Unavailable):
                async with database.begin() as connection:
                    await connection.execute(text("CREATE TABLE kept (id INTEGER)"))
            lost.share = 0.0
            async with database.begin() as connection:
                await connection.execute(text("INSERT INTO kept VALUES (1)"))
        async with database.read() as connection:
            assert (await connection.execute(select(text("id FROM kept")))).scalars().all() == [1]
        assert (lost.commits, lost.lost) == (2, 1)


async def test_reading_loses_nothing(migrated_url: str) -> None:
    async with Database(migrated_url) as database:
        with losing_answers(Random(1), 1.0) as lost:
            async with database.read() as connection:
                await connection.execute(text("SELECT 1"))
        assert lost.commits == 0
