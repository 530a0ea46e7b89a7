"""After every test here the books must agree, and the run ends with a table of the figures."""

from pathlib import Path

import pytest

from tests.books_audit import books_agree, books_left_open
from tests.endtoend.conftest import documents
from tests.faults.figures import IS_LONG, commit_of_tree, figures, reported, table

__all__ = ["books_agree", "books_left_open", "documents", "figures"]

LONG_SECONDS = 3_600
"""How long a test of the long form may take."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long form has another idea of how long a test may take."""
    here = Path(__file__).parent
    for item in items:
        if IS_LONG and here in item.path.parents:
            item.add_marker(pytest.mark.timeout(LONG_SECONDS), append=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table, with the commit."""
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if isinstance(report, pytest.TestReport)
    ]
    if lines := table(reported(reports)):
        form = "long" if IS_LONG else "short"
        terminalreporter.section(f"faults, {form} form, commit {commit_of_tree()}")
        for line in lines:
            terminalreporter.write_line(line)
