"""Names of files that no search shows."""

from pathlib import Path, PurePath

import pytest

from engine.retrieval.private_files import is_private, named_part


@pytest.mark.parametrize("path", [".env", "a/.git/config", "id_ed25519", "A.PEM", "x.key", "books.db-wal", "prod.env"])
def test_private_names(path: str) -> None:
    assert is_private(PurePath(path))


@pytest.mark.parametrize("path", ["notes.md", "identity.md", "keys.md", "a/environment.txt", "database.md"])
def test_other_names(path: str) -> None:
    assert not is_private(PurePath(path))


def test_each_part_is_allowed_by_itself() -> None:
    assert is_private(PurePath(".config/.env"), [".config"])
    assert not is_private(PurePath(".config/.env"), [".config", ".env"])


def test_what_a_user_has_named_is_below_the_current_folder_or_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert named_part(tmp_path / "a" / "b") == PurePath("b")
    assert named_part(tmp_path / ".ssh" / "b") == PurePath(".ssh/b")
    assert named_part(Path("/etc/.x")) == Path("/etc/.x")
