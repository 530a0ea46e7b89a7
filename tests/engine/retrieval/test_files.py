"""The `files` retriever finds fitting passages, notices changed files and never leaves its folders."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import ResourceMissing
from engine.resources import Passage, RetrievalQuery, Retriever
from engine.retrieval import files
from engine.retrieval.files import FilesRetriever

GUIDE = """# Guide

Welcome to the guide of the parrot house.

## Money

Cost is kept exact: money is an integer of nano-USD, and sums are sums of integers.

```python
# not a heading
```

## Keas

Keas live in the Alps of New Zealand.
They open backpacks.
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "docs"
    (root / "sub").mkdir(parents=True)
    (root / "guide.md").write_text(GUIDE)
    (root / "sub" / "notes.txt").write_text(
        "A note on the weather.\n\nIt rains in the mountains, exact forecasts are rare.\n"
    )
    (root / "image.png").write_bytes(b"\x89PNG parrot")
    (root / ".hidden.md").write_text("a hidden parrot")
    return root


@pytest.fixture
def retriever(folder: Path) -> Iterator[FilesRetriever]:
    made = FilesRetriever([folder], check_seconds=0)
    yield made
    made.close()


async def find(retriever: Retriever, text: str, path: str = ".", **options: object) -> list[Passage]:
    query = RetrievalQuery(text=text, owner="local", options={"path": path}, **options)  # type: ignore[arg-type] # by keyword
    return await retriever.retrieve(query)


async def test_a_natural_question_finds_the_right_section(retriever: FilesRetriever) -> None:
    best, *others = await find(retriever, "How is cost kept exact?")

    assert (best.source, best.score) == ("guide.md > Money", 1.0)
    assert "integer of nano-USD" in best.text
    assert [other.source for other in others] == ["sub/notes.txt"]
    assert all(0 <= other.score < 0.5 for other in others)


async def test_word_forms_and_accents_do_not_matter(retriever: FilesRetriever) -> None:
    assert (await find(retriever, "opening a BACKPÁCK"))[0].source == "guide.md > Keas"


@pytest.mark.parametrize("question", ["", "???", "bananas", "“”"])
async def test_unrelated_questions_find_nothing(retriever: FilesRetriever, question: str) -> None:
    assert await find(retriever, question) == []


@pytest.mark.parametrize(
    "question",
    ['cost" OR "parrot', "NEAR(cost, 2)", "heading: cost*", "cost AND NOT ^money", "'; DROP TABLE passage --", "-"],
)
async def test_questions_cannot_use_the_query_syntax_of_the_index(retriever: FilesRetriever, question: str) -> None:
    await find(retriever, question)

    assert await find(retriever, "cost") != []


async def test_a_question_of_stop_words_only_still_searches(retriever: FilesRetriever) -> None:
    assert (await find(retriever, "They?"))[0].source == "guide.md > Keas"


async def test_the_score_counts_the_share_of_words_found(retriever: FilesRetriever) -> None:
    (only,) = await find(retriever, "keas bananas")

    assert only.score == 0.5
    assert await find(retriever, "keas bananas", score_threshold=0.6) == []


async def test_results_can_be_limited_by_number_and_document(retriever: FilesRetriever) -> None:
    assert len(await find(retriever, "exact", max_documents=1)) == 1
    assert [p.source for p in await find(retriever, "exact", document_ids=("sub/notes.txt",))] == ["sub/notes.txt"]
    assert await find(retriever, "exact", document_ids=("none.md",)) == []


async def test_ids_stay_while_other_files_change(retriever: FilesRetriever, folder: Path) -> None:
    before = await find(retriever, "keas")
    (folder / "aaa.md").write_text("# New\n\nSomething else.")

    assert [p.id for p in await find(retriever, "keas")] == [p.id for p in before]


async def test_new_changed_and_deleted_files_are_seen(retriever: FilesRetriever, folder: Path) -> None:
    assert await find(retriever, "otters") == []

    (folder / "new.md").write_text("# Otters\n\nOtters hold hands.")
    assert [p.source for p in await find(retriever, "otters")] == ["new.md > Otters"]

    (folder / "new.md").write_text("# Badgers\n\nBadgers dig all night long.")
    assert await find(retriever, "otters") == []
    assert len(await find(retriever, "badgers")) == 1

    (folder / "new.md").unlink()
    assert await find(retriever, "badgers") == []


async def test_the_path_of_a_single_file_may_have_any_suffix(retriever: FilesRetriever, folder: Path) -> None:
    (folder / "app.log").write_text("The parrot escaped.")

    assert [p.source for p in await find(retriever, "parrot", "app.log")] == ["app.log"]
    assert [p.source for p in await find(retriever, "parrot", str(folder / "guide.md"))] == ["guide.md > Guide"]


@pytest.mark.parametrize(
    "path", ["..", "../secret.md", "/etc", "/etc/passwd", "nowhere", "a\0b", "~", "sub/../../secret.md"]
)
async def test_forbidden_and_missing_paths_get_the_same_error(
    retriever: FilesRetriever, folder: Path, path: str
) -> None:
    (folder.parent / "secret.md").write_text("a secret parrot")

    with pytest.raises(ResourceMissing) as caught:
        await find(retriever, "parrot", path)

    assert "SPANLOOM_FILES_ROOTS" in caught.value.message
    assert caught.value.message == (await _refusal(retriever, "nowhere at all"))


async def _refusal(retriever: FilesRetriever, path: str) -> str:
    with pytest.raises(ResourceMissing) as caught:
        await find(retriever, "x", path)
    return caught.value.message


async def test_links_to_files_outside_are_not_followed(retriever: FilesRetriever, folder: Path) -> None:
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "secret.md").write_text("a secret otter")
    (folder / "link.md").symlink_to(outside / "secret.md")
    (folder / "linked").symlink_to(outside, target_is_directory=True)

    assert await find(retriever, "otter") == []
    for path in ("link.md", "linked", "linked/secret.md"):
        assert "SPANLOOM_FILES_ROOTS" in await _refusal(retriever, path)


async def test_without_roots_nothing_can_be_searched(folder: Path) -> None:
    assert "SPANLOOM_FILES_ROOTS" in await _refusal(FilesRetriever(), str(folder))


async def test_the_command_line_may_search_any_folder(folder: Path) -> None:
    retriever = FilesRetriever(check_seconds=0)

    assert await find(retriever, "keas", str(folder), any_folder=True) != []
    with pytest.raises(ResourceMissing, match="no such file"):
        await find(retriever, "keas", str(folder / "none"), any_folder=True)
    retriever.close()


async def test_a_pipe_does_not_block(retriever: FilesRetriever, folder: Path) -> None:
    os.mkfifo(folder / "pipe.md")

    assert await find(retriever, "keas") != []
    with pytest.raises(ResourceMissing, match="not a readable file"):
        await find(retriever, "keas", "pipe.md")


async def test_binary_files_and_empty_folders_have_no_text(retriever: FilesRetriever, folder: Path) -> None:
    (folder / "binary.md").write_bytes(b"parrot\0parrot")
    (folder / "empty").mkdir()

    assert await find(retriever, "parrot", "binary.md") == []
    with pytest.raises(ResourceMissing, match="no text or Markdown file"):
        await find(retriever, "parrot", "empty")


async def test_too_large_files_and_folders_are_refused(
    retriever: FilesRetriever, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 20)
    with pytest.raises(ResourceMissing, match="larger than"):
        await find(retriever, "keas", "guide.md")

    monkeypatch.undo()
    monkeypatch.setattr(files, "MAX_FILES", 1)
    with pytest.raises(ResourceMissing, match="smaller folder"):
        await find(retriever, "keas")


async def test_a_filter_is_refused_rather_than_ignored(retriever: FilesRetriever) -> None:
    with pytest.raises(ResourceMissing, match="does not support `filter`"):
        await find(retriever, "keas", filter={"tag": "x"})


async def test_the_number_of_indexes_is_limited(
    folder: Path, retriever: FilesRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_INDEXES", 1)

    for _ in range(2):
        assert await find(retriever, "keas") != []
        assert await find(retriever, "rains", "sub") != []


async def test_long_texts_are_split_into_passages(retriever: FilesRetriever, folder: Path) -> None:
    lines = "\n".join(f"- item {number} about topic{number} " + "and more " * 20 for number in range(50))
    (folder / "long.md").write_text(f"# Long\n\n{lines}\n\n{'word ' * 2_000}topic99")

    for topic in ("topic7", "topic33", "topic99"):
        (found,) = await find(retriever, topic)
        assert topic in found.text
        assert len(found.text) < 1_700


PRIVATE = (".env", "id_rsa.txt", "tls.key", "ca.pem", "prod.env", ".ssh/notes.md", "spanloom.db", "spanloom.db.key")


@pytest.fixture
def keys(folder: Path) -> Path:
    """A folder with secrets in private files, and a link to one of them."""
    for name in PRIVATE:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("the parrot password is kea")
    (folder / "harmless.md").symlink_to(folder / ".env")
    return folder


@pytest.mark.parametrize("name", [*PRIVATE, ".ssh", "harmless.md", "sub/../.env", "ID_RSA.txt"])
@pytest.mark.parametrize("any_folder", [False, True])
async def test_hidden_and_key_files_are_not_read_by_name(
    keys: Path, name: str, any_folder: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(keys)
    (keys / "ID_RSA.txt").write_text("the parrot password is kea")
    query = RetrievalQuery(text="password", owner="local", options={"path": name}, any_folder=any_folder)
    with pytest.raises(ResourceMissing):
        await FilesRetriever([keys]).retrieve(query)


async def test_hidden_and_key_files_are_not_found_in_a_folder(keys: Path) -> None:
    assert await find(FilesRetriever([keys]), "password") == []


async def test_a_setting_names_hidden_and_key_files_that_may_be_read(keys: Path) -> None:
    retriever = FilesRetriever([keys], allowed=["id_*.txt", ".SSH", "*.pem"])
    assert {one.source for one in await find(retriever, "password")} == {"id_rsa.txt", ".ssh/notes.md"}
    assert [one.source for one in await find(retriever, "password", "ca.pem")] == ["ca.pem"]
    with pytest.raises(ResourceMissing):
        await find(retriever, "password", "tls.key")


async def test_a_hidden_folder_that_is_a_root_or_holds_the_root_is_searched(tmp_path: Path) -> None:
    root = tmp_path / ".cache" / ".docs"
    root.mkdir(parents=True)
    (root / "guide.md").write_text(GUIDE)
    assert await find(FilesRetriever([root]), "Keas") != []
