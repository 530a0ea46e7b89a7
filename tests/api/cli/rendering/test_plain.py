"""Texts of strangers in views are one line each."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from pydantic import BaseModel

from api.cli.rendering.plain import plain


class Kind(StrEnum):
    """A closed list."""

    ONE = "one"


class Document(BaseModel):
    """A document."""

    name: str
    parts: list[str]


@dataclass(frozen=True, slots=True)
class Record:
    """A record."""

    name: str
    kind: Kind
    at: datetime
    tags: dict[str, str]
    document: Document
    groups: frozenset[tuple[str | None, ...]] = field(default=frozenset({("a\nb", None)}))


def test_every_text_of_a_record_is_on_one_line() -> None:
    now = datetime.now(UTC)
    record = Record("a\n\x1bb", Kind.ONE, now, {"k\n": "v\r"}, Document(name="\u202e", parts=["\n"]))
    assert plain(record) == Record(
        r"a\n\x1bb",
        Kind.ONE,
        now,
        {r"k\n": r"v\r"},
        Document(name=r"\u202e", parts=[r"\n"]),
        frozenset({(r"a\nb", None)}),
    )
    assert plain(record).kind is Kind.ONE
    assert record.name == "a\n\x1bb"
