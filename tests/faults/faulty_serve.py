"""`spanloom` with faults of its own: a wall clock that is off, and a driver that loses answers of COMMIT.

`python -m tests.faults.faulty_serve --clock-hours 1 --lost-answers 0.02 --seed 7 -- serve --role api`. Each start draws
other chances: the pid is part of the seed.
"""

import argparse
import os
import sys
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from random import Random

import time_machine

from api.cli.main import main
from tests.faults.driver import losing_answers


def run(arguments: list[str]) -> None:
    """Split the options off, and be `spanloom`."""
    own, theirs = _split(arguments)
    parser = argparse.ArgumentParser(prog="faulty_serve", description=__doc__)
    parser.add_argument("--clock-hours", type=float, default=0.0)
    parser.add_argument("--lost-answers", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(own)
    with ExitStack() as stack:
        if options.clock_hours:
            there = datetime.now(UTC) + timedelta(hours=options.clock_hours)
            stack.enter_context(time_machine.travel(there, tick=True))
        if options.lost_answers:
            random = Random(f"{options.seed} {os.getpid()}")
            stack.enter_context(losing_answers(random, options.lost_answers))
        sys.argv = ["spanloom", *theirs]
        main()


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


if __name__ == "__main__":
    run(sys.argv[1:])
