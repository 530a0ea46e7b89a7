"""Files that no search shows unless a setting names them: hidden ones, and those that hold keys by their name."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

PRIVATE_NAMES = (
    ".*", "*.env", "id_*", "*.key", "*.pem", "*.p12", "*.pfx", "*.ppk", "*.jks", "*.kdbx",
    "*.db", "*.db-*", "*.sqlite*",
)  # fmt: skip
"""Patterns of names: hidden files and folders, environments, keys, and databases with their logs, such as our own."""


def is_private(path: PurePath, allowed: Sequence[str] = ()) -> bool:
    """Whether a file or one of its folders has a private name; `allowed` are patterns of names that are not."""
    return any(_matches(name, PRIVATE_NAMES) and not _matches(name, allowed) for name in path.parts)


def named_part(path: Path) -> PurePath:
    """The part of an absolute path that its user has named: below the current folder, or at least below the home."""
    for base in (Path.cwd(), Path.home()):
        if path.is_relative_to(base):
            return path.relative_to(base)
    return path


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name.lower(), pattern.lower()) for pattern in patterns)
