"""Former names of the GenAI conventions are turned off by one value of a list in the environment."""

import pytest

from engine.tracing import semconv
from telemetry.sdk.naming import has_former_names, left_out_names


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, True),
        ("", True),
        ("http, database/dup", True),
        ("gen_ai", True),
        ("Gen_AI_latest_experimental", True),
        ("gen_ai_latest_experimental", False),
        ("http/dup,gen_ai_latest_experimental", False),
        (" gen_ai_latest_experimental , unheard of", False),
    ],
)
def test_only_the_value_of_the_conventions_turns_them_off(
    monkeypatch: pytest.MonkeyPatch, given: str | None, expected: bool
) -> None:
    monkeypatch.delenv("OTEL_SEMCONV_STABILITY_OPT_IN", raising=False)
    if given is not None:
        monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", given)
    assert has_former_names() is expected
    assert (left_out_names() == frozenset()) is expected


def test_no_name_in_use_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "gen_ai_latest_experimental")
    assert left_out_names() == {each.former for each in semconv.RENAMED}
    assert not left_out_names() & {each.name for each in semconv.RENAMED}
