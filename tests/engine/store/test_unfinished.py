"""The rows that exist only until an execution ends."""

from engine.database.database import Database
from engine.ledger import CallReservation
from engine.store import unfinished
from engine.usage import Totals
from tests.engine.store.executions import PLAIN, accept_all


async def test_an_unknown_price_makes_the_upper_bound_unknown(database: Database) -> None:
    await accept_all(database, [PLAIN])
    async with database.begin() as connection:
        calls = [("e1", 1, CallReservation(f"{n:016x}", "p", "m", 10, upper)) for n, upper in ((1, None), (2, 4))]
        await unfinished.reserve(connection, calls)
        carried = (await unfinished.carried(connection, ["e1"]))["e1"]
    assert (carried.unfinished.calls, carried.unfinished.upper_nano_usd) == (2, None)
    assert carried.unfinished.upper_cost_nano_usd(100) is None


async def test_a_part_that_is_kept_again_replaces_the_first(database: Database) -> None:
    await accept_all(database, [PLAIN])
    async with database.begin() as connection:
        for ids in (["00000000000000aa"], ["00000000000000aa", "00000000000000ab"]):
            totals = Totals(model_calls=len(ids))
            await unfinished.keep(connection, [unfinished.Part("e1", 1, 1, ids, totals)])
        carried = (await unfinished.carried(connection, ["e1"]))["e1"]
    assert (carried.span_ids, carried.totals.model_calls) == ([0xAA, 0xAB], 2)
