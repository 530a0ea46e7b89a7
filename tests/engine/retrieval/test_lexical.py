"""Words, sentences and BM25 on plain text and Markdown."""

import pytest

from engine.retrieval.lexical import MAX_SENTENCE_CHARACTERS, bm25, is_prose, sentences, terms, words


@pytest.mark.parametrize("text", ["", " ", "one", "one two\n three ", "\n\na"])
def test_words_joined_give_the_text(text: str) -> None:
    assert "".join(words(text)) == text


def test_terms_are_stems_without_stop_words() -> None:
    assert terms("How are the costs of a template kept?") == ["cost", "templat", "kept"]
    assert terms("Wie wird das Budget geprüft?") == ["budget", "geprüft"]
    assert terms("What is it?") == []


def test_forms_of_a_word_are_one_term() -> None:
    assert len(set(terms("live lives lived living"))) == 1
    assert len(set(terms("stop stops stopped stopping"))) == 1
    assert len(set(terms("policy policies"))) == 1


def test_markdown_becomes_sentences_without_markup() -> None:
    text = "# Title\n\nMoney is **exact**. It is e.g. an integer\nof nano-USD.\n- one\n- two\n\n| a | b |\n|---|---|\n"

    found = ["Title", "Money is exact.", "It is e.g. an integer of nano-USD.", "one", "two", "a · b"]
    assert sentences(text) == found


def test_code_is_split_into_lines_and_is_not_prose() -> None:
    found = sentences("Install it.\n```sh\npip install x\n# done\n```\nThen use it.")

    assert found == ["Install it.", "pip install x", "# done", "Then use it."]
    assert [is_prose(sentence) for sentence in found] == [True, False, False, True]


def test_an_overlong_sentence_is_shortened() -> None:
    assert len(sentences("word " * 1_000)[0]) <= MAX_SENTENCE_CHARACTERS + 2


def test_bm25_prefers_rare_words_and_short_texts() -> None:
    documents = [["cost", "cost", "template"], ["template"], ["template", "x", "x", "x", "x", "x"], ["x"]]

    cost, short, long, none = bm25(["cost", "template"], documents)

    assert cost > short > long > none == 0
    assert bm25(["a"], []) == []
    assert bm25(["a"], [[]]) == [0]
