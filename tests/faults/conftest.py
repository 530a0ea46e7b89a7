"""After every test here the books must agree."""

from pathlib import Path

import pytest

from tests.books_audit import books_agree, books_left_open
from tests.endtoend.conftest import documents
from tests.faults.figures import IS_LONG, figures

__all__ = ["books_agree", "books_left_open", "documents", "figures"]

LONG_SECONDS = 3_600
"""How long a test of the long form may take."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long form has another idea of how long a test may take."""
    here = Path(__file__).parent
    for item in items:
        if IS_LONG and here in item.path.parents:
            item.add_marker(pytest.mark.timeout(LONG_SECONDS), append=False)
