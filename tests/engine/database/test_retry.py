"""Work that must not be lost is tried again while the database has trouble, and only then."""

import pytest

from engine.database.retry import insist
from engine.errors import Fenced, Unavailable


async def tried(errors: list[Exception], *also: type[Exception], seconds: float = 5.0) -> int:
    """How often work is done that fails with these errors, one after the other."""

    async def work(number: int) -> int:
        if errors:
            raise errors.pop(0)
        return number

    return await insist(work, *also, seconds=seconds)


async def test_trouble_with_the_database_is_overcome() -> None:
    assert await tried([Unavailable(), OSError(), KeyError()], KeyError) == 4


async def test_an_error_that_would_occur_again_is_raised_at_once() -> None:
    with pytest.raises(Fenced):
        await tried([Fenced(), Unavailable()])


async def test_the_last_error_is_raised_once_the_time_is_over() -> None:
    with pytest.raises(Unavailable, match="still away"):
        await tried([Unavailable("still away")] * 1_000, seconds=0.3)
