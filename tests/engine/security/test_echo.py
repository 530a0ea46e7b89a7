"""Error messages do not repeat what was sent."""

import pytest

from engine.security.echo import MASKED, WINDOW, mask_echo

SECRET_LIFE = "the patient has a broken wrist and two cats"


@pytest.mark.parametrize("content", [SECRET_LIFE, ["hi", {"text": [SECRET_LIFE]}], f"before {SECRET_LIFE} after"])
def test_what_a_message_repeats_is_masked(content: str | list[object]) -> None:
    message = f"refused the request (400), model m: Invalid value: '{SECRET_LIFE}' in messages[0]"
    masked = mask_echo(message, [content])  # type: ignore[list-item]  # JSON
    assert masked == f"refused the request (400), model m: Invalid value: '{MASKED}' in messages[0]"


def test_a_part_of_the_content_is_masked_and_short_words_are_not() -> None:
    message = f"too long: {SECRET_LIFE[3:30]}… and the cats"
    assert mask_echo(message, [SECRET_LIFE]) == f"too long: {MASKED}… and the cats"


def test_a_short_text_is_masked_as_a_whole() -> None:
    assert mask_echo("no such user 123-45-6789", ["123-45-6789", "no"]) == f"no such user {MASKED}"


@pytest.mark.parametrize("length", range(WINDOW, WINDOW + 5))
def test_runs_of_every_length_are_masked(length: int) -> None:
    content = "".join(chr(0x4E00 + number) for number in range(length))
    assert mask_echo(f"a{content}b{content}", [f"x{content}y"]) == f"a{MASKED}b{MASKED}"


def test_a_message_of_its_own_stays_as_it_is() -> None:
    message = "openai is overloaded (529), model gpt-5: Overloaded"
    assert mask_echo(message, ["Please summarise the overloaded schedule of the week", ""]) == message


def test_a_secret_that_overlaps_the_content_does_not_lose_its_shape() -> None:
    secret = "sk-REFUSED01" + "a" * 24
    masked = mask_echo(f"bad key {secret}", [f"mine is sk-OTHER0001{'a' * 24}"])
    assert "REFUSED01" not in masked
