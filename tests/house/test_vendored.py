"""Vendored files are the ones that were published: their SHA-256, and their licences beside them."""

import hashlib

import pytest

from tests.house.lock import ROOT

FOLDER = ROOT / "api" / "vendored"
PUBLISHED = {
    "swagger_ui/swagger-ui-bundle.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    "swagger_ui/swagger-ui.css": "a6a4cf68f069eb89984d5d43644e6a812e749df08d2b1320c6e06e6973847d10",
}
OWN = {"README.md", "swagger_ui/start.js"}
LICENCES = {"swagger_ui/LICENSE", "swagger_ui/NOTICE", "swagger_ui/swagger-ui-bundle.js.LICENSE.txt"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_vendored_file_is_as_it_was_published(name: str) -> None:
    assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == PUBLISHED[name]


def test_every_vendored_file_is_known() -> None:
    files = {str(file.relative_to(FOLDER)) for file in FOLDER.rglob("*") if file.is_file()}
    assert files == {*PUBLISHED, *OWN, *LICENCES}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_vendored_file_is_in_the_list_with_its_licence(name: str) -> None:
    assert name.rpartition("/")[2] in (FOLDER / "README.md").read_text()
