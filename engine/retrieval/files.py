"""The retriever `files`: full-text search over the text and Markdown files of a folder, or over one file.

Each folder has an index in memory (SQLite FTS5), which is built on the first query and updated when files change. A
passage is a part of a section; its source is the file's relative path and the heading above it. The score, 0 to 1, is
the passage's BM25 relative to the best hit, times the share of the question's words that the passage contains.
"""

import hashlib
import logging
import os
import re
import sqlite3
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import anyio
import anyio.to_thread

from engine.documents.json_text import to_json
from engine.errors import ResourceMissing
from engine.graph import JsonObject
from engine.resources import Passage, RetrievalQuery
from engine.retrieval.lexical import STOP_WORDS
from engine.retrieval.private_files import is_private, named_part

MAX_FILES = 2_000
MAX_FILE_BYTES = 2 << 20
MAX_FOLDER_BYTES = 64 << 20
MAX_INDEXES = 8
MAX_QUERY_TERMS = 32

SUFFIXES = frozenset({".md", ".markdown", ".txt", ".text", ".rst"})
"""Suffixes of the files read from a folder. A file that is itself the path may have any suffix."""

_MARKDOWN = frozenset({".md", ".markdown"})
_SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__"})
_PASSAGE_CHARACTERS = 800
_CANDIDATES = 200
_BINARY_PROBE_BYTES = 8_192
_WORD = re.compile(r"[^\W_]+")
_HEADING = re.compile(r"#{1,6}\s+(.*?)\s*#*\s*$")
_FENCE = re.compile(r"\s*(?:```|~~~)")
_NOT_ALLOWED = "the path cannot be searched: it must exist, in a folder of the server's setting SPANLOOM_FILES_ROOTS"
_PRIVATE = (
    "the file is hidden or holds keys, by its name; SPANLOOM_FILES_ALLOW=NAME lets the files retriever read it anyway"
)
_log = logging.getLogger(__name__)

_SCHEMA = """
CREATE VIRTUAL TABLE passage USING fts5(
    heading, text, document UNINDEXED, tokenize = 'porter unicode61 remove_diacritics 2'
)
"""
_BEST_PASSAGES = """
SELECT rowid, document, heading, text, -bm25(passage, 2.0, 1.0) AS weight FROM passage
WHERE passage MATCH :query AND (:documents IS NULL OR document IN (SELECT value FROM json_each(:documents)))
ORDER BY weight DESC, rowid LIMIT :limit
"""
_ROWS_CONTAINING = (
    "SELECT rowid FROM passage WHERE passage MATCH :term AND rowid IN (SELECT value FROM json_each(:rows))"
)


class FilesRetriever:
    """Searches files below `roots`. A query with `any_folder` (from the command line) may use any path.

    Hidden files and files that hold keys, by their names, are left out unless a pattern in `allowed` names them. Files
    are checked for changes at most every `check_seconds`.
    """

    options_schema: JsonObject = {
        "type": "object",
        "properties": {
            "path": {
                "type": "string",
                "minLength": 1,
                "maxLength": 4_096,
                "description": "A folder or file below the allowed folders; on the command line, any path",
            }
        },
        "required": ["path"],
        "additionalProperties": False,
    }

    def __init__(self, roots: Sequence[Path] = (), *, allowed: Sequence[str] = (), check_seconds: float = 1.0) -> None:
        self._allowed_names = tuple(allowed)
        self._roots = [Path(os.path.realpath(root)) for root in roots]
        self._check_seconds = check_seconds
        self._indexes: dict[Path, _Index] = {}
        self._one_at_a_time = anyio.CapacityLimiter(1)

    async def retrieve(self, query: RetrievalQuery) -> list[Passage]:
        """The passages, best first. Raises `ResourceMissing` if the path is not allowed or cannot be read."""
        if query.filter:
            raise ResourceMissing(
                "the retriever files does not support `filter`; choose files by `path` or `document_ids`"
            )
        return await anyio.to_thread.run_sync(self._retrieve, query, limiter=self._one_at_a_time)

    def close(self) -> None:
        """Discard all indexes."""
        while self._indexes:
            self._indexes.popitem()[1].close()

    def _retrieve(self, query: RetrievalQuery) -> list[Passage]:
        path = self._allowed(str(query.options.get("path", "")), any_folder=query.any_folder)
        return self._index(path).search(query)

    def _allowed(self, path: str, *, any_folder: bool) -> Path:
        """The resolved path. Forbidden and missing paths get the same error, so that nobody can probe the disk."""
        try:
            if any_folder:
                return self._any_path(path)
            for root in self._roots:
                real = Path(os.path.realpath(root / path))
                if real.is_relative_to(root) and real.exists() and not self._is_private(real.relative_to(root)):
                    return real
        except (OSError, ValueError, RuntimeError) as error:
            raise ResourceMissing("there is no such file or folder" if any_folder else _NOT_ALLOWED) from error
        raise ResourceMissing(_NOT_ALLOWED)

    def _any_path(self, path: str) -> Path:
        real = Path(path).expanduser().resolve(strict=True)
        if self._is_private(named_part(real)):
            raise ResourceMissing(_PRIVATE)
        return real

    def _is_private(self, path: Path | PurePath) -> bool:
        return is_private(path, self._allowed_names)

    def _index(self, path: Path) -> "_Index":
        """The up-to-date index of a path. The least recently used index is dropped if there are too many."""
        index = self._indexes.pop(path, None) or _Index(path, self._allowed_names)
        now = time.monotonic()
        if now >= index.checked_at + self._check_seconds:
            try:
                index.refresh()
            except (ResourceMissing, sqlite3.Error):
                index.close()
                raise
            index.checked_at = now
        self._indexes[path] = index
        if len(self._indexes) > MAX_INDEXES:
            self._indexes.pop(next(iter(self._indexes))).close()
        return index


@dataclass(frozen=True, slots=True)
class _File:
    """A file's state when it was read, and the range of its rows in the index."""

    modified_ns: int
    size_bytes: int
    first_row: int = 0
    last_row: int = -1

    def is_same(self, other: "_File") -> bool:
        return (self.modified_ns, self.size_bytes) == (other.modified_ns, other.size_bytes)


@dataclass(slots=True)
class _Index:
    """The passages of one folder or file. Used by one thread at a time."""

    path: Path
    allowed: tuple[str, ...] = ()
    checked_at: float = float("-inf")
    files: dict[str, _File] = field(default_factory=dict)
    rows: int = 0
    database: sqlite3.Connection = field(init=False)

    def __post_init__(self) -> None:
        self.database = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self.database.execute(_SCHEMA)

    def close(self) -> None:
        self.database.close()

    def refresh(self) -> None:
        """Read new and changed files and remove deleted ones. Raises `ResourceMissing` if no file is left."""
        present = dict(_files(self.path, self.allowed))
        if not present:
            raise ResourceMissing("there is no text or Markdown file at this path")
        self.database.execute("BEGIN")
        for name in [
            name for name, file in self.files.items() if name not in present or not file.is_same(present[name])
        ]:
            file = self.files.pop(name)
            self.database.execute("DELETE FROM passage WHERE rowid BETWEEN ? AND ?", (file.first_row, file.last_row))
        for name, file in present.items():
            if name not in self.files:
                self.files[name] = self._read(name, file)
        self.database.execute("COMMIT")

    def _read(self, name: str, file: _File) -> _File:
        first = self.rows + 1
        text = _text(self.path / name if self.path.is_dir() else self.path)
        for heading, part in _passages(text, is_markdown=Path(name).suffix.lower() in _MARKDOWN):
            self.rows += 1
            self.database.execute(
                "INSERT INTO passage (rowid, heading, text, document) VALUES (?, ?, ?, ?)",
                (self.rows, heading, part, name),
            )
        return _File(file.modified_ns, file.size_bytes, first, self.rows)

    def search(self, query: RetrievalQuery) -> list[Passage]:
        terms = _terms(query.text)
        if not terms:
            return []
        documents = None if query.document_ids is None else to_json(query.document_ids).decode()
        found = self.database.execute(
            _BEST_PASSAGES,
            {"query": " OR ".join(terms), "documents": documents, "limit": max(_CANDIDATES, query.max_documents)},
        ).fetchall()
        shares = self._shares(terms, [row[0] for row in found])
        passages = [
            Passage(
                id=f"{document}#{hashlib.sha256(text.encode()).hexdigest()[:12]}",
                source=f"{document} > {heading}" if heading else document,
                text=text,
                score=round(weight / found[0][4] * shares[row], 4),
            )
            for row, document, heading, text, weight in found
        ]
        passages.sort(key=lambda passage: -passage.score)
        threshold = query.score_threshold or 0.0
        return [passage for passage in passages if passage.score >= threshold][: query.max_documents]

    def _shares(self, terms: Sequence[str], rows: Sequence[int]) -> dict[int, float]:
        """The share of the terms that each row contains, according to the index's own tokenizer."""
        counts = dict.fromkeys(rows, 0)
        among = to_json(rows).decode()
        for term in terms:
            for (row,) in self.database.execute(_ROWS_CONTAINING, {"term": term, "rows": among}):
                counts[row] += 1
        return {row: count / len(terms) for row, count in counts.items()}


def _terms(question: str) -> list[str]:
    """The question's words as quoted FTS5 strings; stop words are kept only if there are no other words."""
    asked = list(dict.fromkeys(_WORD.findall(question.lower())))
    meaningful = [word for word in asked if word not in STOP_WORDS] or asked
    return [f'"{word}"' for word in meaningful[:MAX_QUERY_TERMS]]


def _files(path: Path, allowed: Sequence[str]) -> Iterator[tuple[str, _File]]:
    """The files to read, with paths relative to the folder. Raises `ResourceMissing` if there are too many."""
    if not path.is_dir():
        yield path.name, _File(*_checked_stat(path))
        return
    count = size_bytes = 0
    for name in sorted(_file_names(path, allowed)):
        try:
            modified_ns, file_bytes = _checked_stat(path / name)
        except ResourceMissing as error:
            _log.warning("file left out of the search: %s", error, extra={"file": name})
            continue
        count, size_bytes = count + 1, size_bytes + file_bytes
        if count > MAX_FILES or size_bytes > MAX_FOLDER_BYTES:
            raise ResourceMissing(
                f"the folder holds more than {MAX_FILES:,} text files or {MAX_FOLDER_BYTES >> 20} MiB of text; "
                "choose a smaller folder"
            )
        yield name, _File(modified_ns, file_bytes)


def _file_names(folder: Path, allowed: Sequence[str]) -> Iterator[str]:
    """Text files below a folder. Private files, linked folders, and links to files outside or private are skipped."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [
            name for name in folders if not is_private(PurePath(name), allowed) and name not in _SKIPPED_FOLDERS
        ]
        for name in files:
            path = Path(parent, name)
            if path.suffix.lower() not in SUFFIXES or is_private(PurePath(name), allowed):
                continue
            if path.is_symlink():
                real = Path(os.path.realpath(path))
                if not real.is_relative_to(folder) or is_private(real.relative_to(folder), allowed):
                    continue
            yield path.relative_to(folder).as_posix()


def _checked_stat(path: Path) -> tuple[int, int]:
    """Time of the last change (ns) and size (bytes). Raises `ResourceMissing` unless it is a readable file."""
    try:
        state = path.stat()
    except OSError as error:
        raise ResourceMissing("the file cannot be read") from error
    if not stat.S_ISREG(state.st_mode) or not os.access(path, os.R_OK):
        raise ResourceMissing("it is not a readable file")
    if state.st_size > MAX_FILE_BYTES:
        raise ResourceMissing(f"the file is larger than {MAX_FILE_BYTES >> 20} MiB")
    return state.st_mtime_ns, state.st_size


def _text(path: Path) -> str:
    """The text of a file; empty if it is binary or can no longer be read."""
    try:
        descriptor = os.open(os.path.realpath(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(MAX_FILE_BYTES)
    except OSError:
        return ""
    if b"\0" in data[:_BINARY_PROBE_BYTES]:
        return ""
    return data.decode("utf-8-sig", "replace")


def _passages(text: str, *, is_markdown: bool) -> Iterator[tuple[str, str]]:
    """Passages as (heading, text): paragraphs of one section, joined up to about 800 characters."""
    for heading, section in _sections(text) if is_markdown else [("", text)]:
        kept = ""
        for paragraph in _paragraphs(section):
            if kept and len(kept) + len(paragraph) > _PASSAGE_CHARACTERS:
                yield heading, kept
                kept = ""
            kept = f"{kept}\n{paragraph}" if kept else paragraph
        if kept:
            yield heading, kept


def _sections(text: str) -> Iterator[tuple[str, str]]:
    """The sections of a Markdown text as (heading, text); a # in a code block does not start a heading."""
    heading, lines, in_code = "", list[str](), False
    for line in text.splitlines():
        if _FENCE.match(line):
            in_code = not in_code
        found = None if in_code else _HEADING.match(line)
        if found:
            yield heading, "\n".join(lines)
            heading, lines = found.group(1), []
        else:
            lines.append(line)
    yield heading, "\n".join(lines)


def _paragraphs(section: str) -> Iterator[str]:
    """The paragraphs of a section. Long paragraphs are split into list items and table rows, then into pieces."""
    for paragraph in re.split(r"\n\s*\n", section):
        if len(paragraph) <= _PASSAGE_CHARACTERS:
            pieces = [paragraph]
        else:
            pieces = re.split(r"\n(?=\s*(?:[-*+]|\d+[.)]|\|)\s)", paragraph)
        for piece in pieces:
            yield from _pieces(piece.strip("\n"))


def _pieces(text: str) -> Iterator[str]:
    while len(text) > 2 * _PASSAGE_CHARACTERS:
        end = text.rfind(" ", 0, _PASSAGE_CHARACTERS) + 1 or _PASSAGE_CHARACTERS
        yield text[:end].strip()
        text = text[end:]
    if text.strip():
        yield text.rstrip()
