"""The generated files are what the code says now."""

import pytest

from docs.generate import FILES, REFERENCE, ROOT, is_current


@pytest.mark.parametrize("name", list(FILES))
def test_a_generated_file_is_current(name: str) -> None:
    assert is_current(name, FILES[name]()), "run python -m docs.generate"


def test_every_page_of_the_reference_is_generated() -> None:
    assert {page.stem for page in (ROOT / "docs" / "reference").iterdir()} == set(REFERENCE)


def test_every_row_of_a_reference_table_says_what_it_is_about() -> None:
    for name in ("document", "node-types", "events", "expressions", "settings", "metrics", "rules"):
        text = (ROOT / "docs" / "reference" / f"{name}.md").read_text()
        assert [line for line in text.splitlines() if line.startswith("| `") and line.endswith("|  |")] == [], name
