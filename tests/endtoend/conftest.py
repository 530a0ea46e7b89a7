"""After every test here the books must agree."""

from pathlib import Path

import pytest

from tests.books_audit import books_agree
from tests.collector.conftest import sampled

__all__ = ["books_agree", "sampled"]


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """What is searched."""
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "tower.md").write_text("# The tower\n\nThe clock hangs in the north tower. We run to it.\n")
    return folder
