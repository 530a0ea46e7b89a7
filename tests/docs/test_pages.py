"""The commands and files of every page work, in order, in an empty folder."""

from pathlib import Path

import pytest

from docs.generate import ROOT
from tests.docs.page import PageRun, blocks

DOCS = ROOT / "docs"
PAGES = sorted(
    str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if page.parent.name not in ("reference", "decisions")
)
WITH_COMMANDS = [name for name in PAGES if any(block.is_run for block in blocks(DOCS / name))]
ON_POSTGRES = [name for name in WITH_COMMANDS if any(block.needs_postgres for block in blocks(DOCS / name))]
NOT_RUN = {
    ("quick-start.md", "the tests run the version that is checked out"),
    ("quick-start.md", "it needs a key of OpenAI"),
    (
        "how-to/collector-stack.md",
        "it fetches containers or builds programs; tests/house/test_stack.py and tests/endtoend run the same",
    ),
    ("how-to/collector-stack.md", "it needs a Collector; tests/endtoend run the same with a real one"),
    ("how-to/back-up.md", "it needs a production database"),
    ("how-to/keep-and-forget-content.md", "it needs a trace store"),
    ("how-to/other-trace-stores.md", "it needs Phoenix"),
    ("how-to/other-trace-stores.md", "it needs MLflow"),
    ("how-to/let-others-in.md", "it needs a certificate and a proxy"),
    ("how-to/let-others-in.md", "it needs an identity provider"),
}
"""Page and reason of every block that is not run. Think twice before one more stands here."""
SAYS = {
    "quick-start.md": ["seal 11/11 spans", "demo money"],
    "tutorial.md": ["A refund is paid within 14 days", "no_passage", "workflow.execution.failed", "delivered"],
    "how-to/search-documents.md": ["The gate code changes on the first Monday"],
    "how-to/ask-for-approval.md": ["approved or rejected", "approval"],
    "how-to/durable-runs.md": ["queued", "completed"],
    "how-to/receive-webhooks.md": ["delivered"],
    "how-to/let-others-in.md": ['"owner":"ann"', '"items":[]', "Revoked key"],
    "how-to/use-from-python.md": ["completed", "already_finished"],
}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [name for name in WITH_COMMANDS if name not in ON_POSTGRES])
def test_the_commands_of_a_page_work(name: str, tmp_path: Path) -> None:
    page = PageRun(tmp_path)
    page.run(DOCS / name)
    assert [text for text in SAYS.get(name, []) if text not in page.output] == [], page.output


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.parametrize("name", ON_POSTGRES)
def test_the_commands_of_a_page_on_postgresql_work(name: str, postgres_url: str, tmp_path: Path) -> None:
    PageRun(tmp_path, postgres_url=postgres_url).run(DOCS / name)


def test_only_the_blocks_listed_here_are_not_run() -> None:
    found = {(name, block.why_not_run) for name in PAGES for block in blocks(DOCS / name) if block.why_not_run}
    assert found == NOT_RUN


def test_every_block_says_its_language_and_every_file_its_name() -> None:
    for name in PAGES:
        fences = [line.strip() for line in (DOCS / name).read_text().splitlines() if line.strip().startswith("```")]
        assert [line for line in fences[::2] if line == "```"] == [], name
        assert [
            block.text for block in blocks(DOCS / name) if block.language in ("json", "python") and not block.title
        ] == []


def test_every_decision_is_short_and_in_the_index() -> None:
    decisions = [page for page in (DOCS / "decisions").glob("*.md") if page.name != "README.md"]
    index = (DOCS / "decisions" / "README.md").read_text()
    assert [page.name for page in decisions if len(page.read_text().splitlines()) > 45] == []
    assert [page.name for page in decisions if f"({page.name})" not in index] == []
