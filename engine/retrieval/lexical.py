"""Lexical text matching: words, terms, sentences and BM25 scores, without a model."""

import math
import re
from collections import Counter
from collections.abc import Sequence

_STOP_WORDS = """
a about above after again all also am an and any are as at be because been before being below between both but by can
could did do does doing don down during each else few for from further get give had has have having he her here hers
him his how i if in into is it its just let like make many may me might more most much must my no nor not now of off
on once one only or other our ours out over own please same say says shall she should show so some such tell than that
the their theirs them then there these they this those through to too under until up us use used using very want was
we were what when where which while who whom whose why will with within without would you your yours aber als am an
auf aus bei bin bis da das dass dem den der des die doch du ein eine einem einen einer eines er es für gibt hat hatte
ich ihr im in ist kann man mir mit nach nicht noch nur oder sie sind so über um und uns vom von vor was wann warum
wenn wer werden wie wird wir wird wo zu zum zur
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""English and German words that are too common to be worth searching for."""

MAX_SENTENCE_CHARACTERS = 400

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_SUFFIXES = (("ies", "y"), ("sses", "ss"), ("ing", ""), ("edly", ""), ("ed", ""), ("ly", ""), ("es", ""), ("s", ""))
_BLOCK = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*+]|\d+[.)]|#{1,6}|\|)\s*)")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"”)]*\s+(?=[\"“(`*\[]*[^\W\d_a-zß-ÿ]|\d)")
_MARKUP = re.compile(r"^\s*(?:[-*+]\s+|\d+[.)]\s+|#{1,6}\s+|>\s?)|\*\*|__")
_FENCE = re.compile(r"^[ \t]*(?:```|~~~).*$", re.MULTILINE)
_RULE = re.compile(r"^[\s|:=\-]*$")
_K1, _B = 1.2, 0.75


def words(text: str) -> list[str]:
    """The words of a text with the whitespace around them; joined, they give the text again."""
    return re.findall(r"\s*\S+\s*|\s+", text)


def terms(text: str) -> list[str]:
    """The terms of a text: its words in lower case, without stop words, reduced to stems."""
    return [_stem(word) for word in _WORD.findall(text.lower()) if word not in STOP_WORDS]


def sentences(text: str) -> list[str]:
    """The sentences of plain text or Markdown, without markup. A table row or a line of code counts as one."""
    found: list[str] = []
    for position, part in enumerate(_FENCE.split(text)):
        found += _lines(part) if position % 2 else _prose(part)
    return [_shortened(sentence) for sentence in found]


def is_prose(sentence: str) -> bool:
    """Whether the text ends like a sentence; table rows, headings and code usually do not."""
    return sentence.rstrip('*_`"”)').endswith((".", "!", "?"))


def _lines(code: str) -> list[str]:
    return [line.strip() for line in code.splitlines() if line.strip()]


def _prose(text: str) -> list[str]:
    found: list[str] = []
    for block in _BLOCK.split(text):
        if _RULE.match(block):
            continue
        line = " ".join(_MARKUP.sub("", block).split())
        if line.startswith("|"):
            line = " · ".join(cell.strip() for cell in line.strip("|").split("|") if cell.strip())
        found += [sentence.strip() for sentence in _SENTENCE_END.split(line) if sentence.strip()]
    return found


def bm25(query: Sequence[str], documents: Sequence[Sequence[str]]) -> list[float]:
    """The Okapi BM25 score of each document (a list of terms) for the query's terms; 0 if they share no term."""
    if not documents:
        return []
    average = sum(map(len, documents)) / len(documents) or 1.0
    counts = [Counter(document) for document in documents]
    holders = {term: sum(term in count for count in counts) for term in set(query)}
    weight = {term: math.log(1 + (len(documents) - n + 0.5) / (n + 0.5)) for term, n in holders.items()}
    return [_score(weight, count, len(document) / average) for count, document in zip(counts, documents, strict=True)]


def _score(weight: dict[str, float], count: Counter[str], length: float) -> float:
    norm = _K1 * (1 - _B + _B * length)
    return sum(value * count[term] * (_K1 + 1) / (count[term] + norm) for term, value in weight.items() if count[term])


def _stem(word: str) -> str:
    """A rough stem for English: lives, lived, living and live become liv, stopped becomes stop."""
    for suffix, replacement in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word[: -len(suffix)] + replacement
            if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiouls":
                word = word[:-1]
            break
    return word[:-1] if word.endswith("e") and len(word) > 3 else word


def _shortened(sentence: str) -> str:
    if len(sentence) <= MAX_SENTENCE_CHARACTERS:
        return sentence
    return sentence[:MAX_SENTENCE_CHARACTERS].rsplit(" ", 1)[0] + " …"
