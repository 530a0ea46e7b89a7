"""`python -m bench [P1 …] [--full | --smoke]` runs benchmark groups; each prints a table and a JSON line."""

import argparse
import asyncio
import importlib

from bench.harness import Effort, serve, show

GROUPS = {
    "P1": "p01_engine",
    "P3": "p03_durable",
    "P4": "p04_stream",
    "P6": "p06_ingest",
    "P7": "p07_writer",
    "P8": "p08_cost",
    "P11": "p11_burst",
    "P12": "p12_start",
    "P15": "p15_commits",
}


def main() -> None:
    """Run the named groups, or all."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"{', '.join(GROUPS)} (default: all)")
    parser.add_argument(
        "--full", action="store_const", const="full", dest="effort", help="run as many rounds as the goals require"
    )
    parser.add_argument(
        "--smoke", action="store_const", const="smoke", dest="effort", help="only check that the benchmarks run"
    )
    parser.add_argument("--worker", nargs=2, metavar=("MODULE", "VARIANT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        asyncio.run(serve(*arguments.worker))
        return
    unknown = set(arguments.groups) - GROUPS.keys()
    if unknown:
        parser.error(f"unknown group {', '.join(sorted(unknown))}; choose from {', '.join(GROUPS)}")
    effort: Effort = arguments.effort or "short"
    for name in arguments.groups or GROUPS:
        show(importlib.import_module(f"bench.{GROUPS[name]}").measure(effort), effort)


if __name__ == "__main__":
    main()
