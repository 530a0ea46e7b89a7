"""Writes the dashboards, the rules and the runbook's page: `python -m dashboards.generate`; `--check` only compares.

`--rules FOLDER` writes only the rules, into that folder; `--scale 0.01` divides all their times by a hundred.
"""

import argparse
import sys
from pathlib import Path

from dashboards.boards import board_files
from dashboards.options import Options
from dashboards.rule_files import rule_files
from dashboards.rule_tests import test_files
from dashboards.runbook_page import runbook_page

HOME = Path(__file__).parent
_RUNBOOK = HOME / "runbook.md"
_SHIPPED = Options()


def main(arguments: list[str]) -> int:
    """Write or check the files. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dashboards.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not up to date")
    parser.add_argument("--rules", type=Path, metavar="FOLDER", help="write only the rules, into this folder")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply all times in the rules by this factor")
    parser.add_argument("--runbook", default=_SHIPPED.runbook, help="address of the runbook")
    parser.add_argument("--service", default=_SHIPPED.service, help="address of the service, for links")
    asked = parser.parse_args(arguments)
    if asked.rules:
        write_rules(asked.rules, Options(scale=asked.scale, runbook=asked.runbook, service=asked.service))
        return 0
    if asked.check:
        stale = [str(file.relative_to(HOME.parent)) for file, text in files().items() if not _says(file, text)]
        for name in [*stale, *unknown_files()]:
            print(f"{name} is not up to date; run: python -m dashboards.generate")
        return 1 if stale or unknown_files() else 0
    for file, text in files().items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return 0


def files() -> dict[Path, str]:
    """Every generated file that is committed."""
    return {
        **{HOME / "json" / name: text for name, text in board_files().items()},
        **{HOME / "rules" / name: text for name, text in rule_files(_SHIPPED).items()},
        **{HOME / "rules" / "tests" / name: text for name, text in test_files(_SHIPPED).items()},
        HOME.parent / "api" / "routers" / "runbook.html": runbook_page(_RUNBOOK.read_text()),
    }


def unknown_files() -> list[str]:
    """Files in the generated folders that the generator does not write."""
    there = [file for folder in ("json", "rules") for file in (HOME / folder).rglob("*") if file.is_file()]
    return sorted(str(file.relative_to(HOME.parent)) for file in there if file not in files())


def write_rules(folder: Path, options: Options) -> list[Path]:
    """Write the rules with these options; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / name for name in rule_files(options)]
    for file, text in zip(written, rule_files(options).values(), strict=True):
        file.write_text(text)
    return written


def _says(file: Path, text: str) -> bool:
    return file.is_file() and file.read_text() == text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
