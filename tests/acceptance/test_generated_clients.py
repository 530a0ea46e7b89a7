"""Clients that others generate from openapi.json are whole, and their types are right."""

from pathlib import Path

import pytest

from tests.conftest import found
from tests.house.lock import ROOT
from tests.services.generators import server
from tests.services.generators.server import Generators

DOCUMENT = ROOT / "docs" / "openapi.json"


@pytest.fixture
def generators() -> Generators:
    return found(server.find)


@pytest.mark.slow
def test_openapi_typescript_makes_types_that_compile(generators: Generators, tmp_path: Path) -> None:
    types = generators.typescript_types(DOCUMENT, tmp_path)
    assert "executions_start" in types
    assert "ClosingEvent" in types


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_openapi_python_client_leaves_nothing_out(generators: Generators, tmp_path: Path) -> None:
    said = generators.python_client(DOCUMENT, tmp_path)
    assert "Unable to" not in said, said
    assert "removal" not in said, said
