"""F18: engines, dispatchers and leases of several processes, in orders that chance finds and with every fault."""

import logging
import random
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest

from engine.ledger import Finish
from tests.faults.fake_ledger import Attempt, Control, FaultyLedger
from tests.faults.figures import SEED, Figures, short_or_long
from tests.faults.simulated_world import World
from tests.faults.simulation import Scenario, explore

SEEDS = short_or_long(150, 10_000)
TWIN_SEEDS = range(30)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What goes wrong here is meant to; the chance of the module `random` is left as it was."""
    chance = random.getstate()
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
    random.setstate(chance)


class CarelessControl(Control):
    """Lets every attempt decide."""

    def owns(self, attempt: Attempt, owner: str) -> bool:
        """Always."""
        return attempt[0] in self.rows


class DeafLedger(FaultyLedger):
    """Never hears that its attempt is fenced off."""

    async def finish(self, finish: Finish) -> bool:
        """All is well, it says."""
        return await super().finish(finish) or True


def scenario(
    hits: Counter[str], control: type[Control] = Control, ledger: type[FaultyLedger] = FaultyLedger
) -> Scenario:
    """One world per seed."""

    async def run(chance: Random) -> list[str]:
        return await World(chance, control(), hits, ledger).run()

    return run


@pytest.mark.slow
def test_every_order_of_several_processes_decides_each_execution_once(figures: Figures) -> None:
    tenth = SEEDS // 10
    with figures(
        "F18",
        kills=tenth,
        freezes=tenth,
        closes=tenth,
        cancels=tenth,
        refused=SEEDS,
        answer_lost=SEEDS,
        slow=SEEDS,
        fenced=tenth,
    ) as figure:
        figure.size("simulated runs", SEEDS)
        broken = explore(scenario(figure.hits), range(figure.seed, figure.seed + SEEDS))
        figure.size("results told", figure.hits["told"])
        figure.size("answers", figure.hits["answers"])
        figure.none("broken invariants", broken)


def test_a_seed_runs_alone_as_it_ran_among_others() -> None:
    """A broken one is told; with SPANLOOM_FAULTS_SEED set to it, this runs it alone."""
    hits: list[Counter[str]] = [Counter(), Counter()]
    told = [explore(scenario(each), range(SEED, SEED + 1)) for each in hits]
    assert hits[0] == hits[1]
    assert told == [[], []]


def test_a_decision_that_is_no_compare_and_set_is_found() -> None:
    broken = explore(scenario(Counter(), control=CarelessControl), TWIN_SEEDS)
    assert any("is decided once" in one.what for one in broken)


def test_an_engine_that_does_not_hear_that_it_is_fenced_off_is_found() -> None:
    broken = explore(scenario(Counter(), ledger=DeafLedger), TWIN_SEEDS)
    assert any("was told" in one.what for one in broken)
