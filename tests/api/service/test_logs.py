"""What the process writes to its log."""

import logging

import pytest

from api.service.logs import JsonLines, TextLines

KEY = "sk-abcdefghijklmnop1234567890"


@pytest.mark.parametrize("formatter", [JsonLines(), TextLines()], ids=["json", "text"])
def test_no_secret_reaches_the_log_by_a_sentence_a_field_or_an_exception(formatter: logging.Formatter) -> None:
    try:
        raise ValueError(f"refused: {KEY}")
    except ValueError as error:
        trouble = (type(error), error, error.__traceback__)
    record = logging.LogRecord("test", logging.ERROR, __file__, 1, "the key %s", (KEY,), trouble)
    record.field = KEY
    written = formatter.format(record)
    assert KEY not in written
    assert written.count("[redacted]") == 3
