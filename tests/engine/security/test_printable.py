"""Texts that are shown: controls are escaped, and everything that people write stays."""

import json
import sys
import unicodedata

import pytest

from engine.security.printable import one_line, printable, printable_json

WRITTEN = "naïve Ελλάδα Привет 日本語 한국어 عربى עברית हिन्दी 🎉 ☃\ufe0f 1\u00a0000\u202f€ \ue0b0"


@pytest.mark.parametrize("show", [printable, one_line])
def test_what_people_write_stays(show: object) -> None:
    assert callable(show)
    assert show(WRITTEN) == WRITTEN


@pytest.mark.parametrize(
    ("text", "lines", "line"),
    [
        ("\x1b[2J", r"\x1b[2J", r"\x1b[2J"),
        ("\x9b2J\x00\x08\x7f", r"\x9b2J\x00\x08\x7f", r"\x9b2J\x00\x08\x7f"),
        ("a\u202eb\u200bc\ufeff", r"a\u202eb\u200bc\ufeff", r"a\u202eb\u200bc\ufeff"),
        ("\U000e0041\ud800\u3164", r"\U000e0041\ud800\u3164", r"\U000e0041\ud800\u3164"),
        ("a\r\nb\n\tc", "a\nb\n\tc", r"a\r\nb\n\tc"),
        ("a\rb", r"a\rb", r"a\rb"),
        ("a\u200db", "a\u200db", r"a\u200db"),
        ("a\u2028b\x85c", r"a\u2028b\x85c", r"a\u2028b\x85c"),
    ],
)
def test_controls_are_escaped(text: str, lines: str, line: str) -> None:
    assert (printable(text), one_line(text)) == (lines, line)


def test_no_control_of_unicode_is_left() -> None:
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    left = {character for character in one_line(every) if unicodedata.category(character)[0] in "CZ"}
    kinds = {unicodedata.category(character) for character in left}
    assert kinds == {"Zs", "Co", "Cn"}  # spaces, private use and characters of later versions of Unicode
    assert {c for c in printable(every) if unicodedata.category(c) in {"Cc", "Cf", "Cs"}} == set("\n\t\u200c\u200d")


def test_json_is_exact_and_holds_no_control() -> None:
    text = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x3000), 0xFEFF, 0xE0041, 0x1F389])) + WRITTEN
    written = printable_json({"a": text}, indented=True)
    assert json.loads(written) == {"a": text}
    assert one_line(written.replace("\n", "")) == written.replace("\n", "")
    assert "🎉" in written


def test_json_of_a_lone_surrogate_is_exact() -> None:
    assert json.loads(printable_json(["\udcff", 1])) == ["\udcff", 1]


def test_json_of_another_type_is_refused_unless_it_is_said_how() -> None:
    with pytest.raises(TypeError):
        printable_json({"a": object()})
    assert printable_json({"a": 1j}, default=str) == '{"a":"1j"}'
