"""What the process writes to its log."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import pytest

from api.service.logs import JsonLines, TextLines, configure_logs, log_for_command
from api.settings import Settings

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


def test_a_text_record_cannot_be_forged_by_a_sentence_a_field_or_an_exception() -> None:
    forged = "x\n12:00:00 ERROR   the books are gone\r\x1b[2J\u202e"
    try:
        raise ValueError(forged)
    except ValueError as error:
        trouble = (type(error), error, error.__traceback__)
    record = logging.LogRecord("test", logging.ERROR, __file__, 1, "it said %s", (forged,), trouble)
    record.field = forged
    first, *rest = TextLines().format(record).split("\n")
    assert first.count(r"x\n12:00:00 ERROR   the books are gone\r\x1b[2J\u202e") == 2
    assert [line for line in rest if not line.startswith("  ")] == []
    assert r"  12:00:00 ERROR   the books are gone\r\x1b[2J\u202e" in rest


def test_a_json_record_holds_no_control_and_exact_values() -> None:
    text = "\x9b2J\u202e\x7f\ud800"
    written = JsonLines().format(logging.LogRecord("test", logging.ERROR, __file__, 1, text, (), None))
    assert written.isascii()
    assert json.loads(written)["message"] == text


DRIVERS = (
    "aiosqlite", "anthropic", "asyncpg", "google_genai.models", "httpcore", "httpcore2", "httpx", "httpx2", "langchain",
    "openai._base_client", "opentelemetry", "psycopg.pool", "sqlalchemy.engine.Engine", "urllib3", "a.new.driver",
)  # fmt: skip


@pytest.mark.parametrize("configure", [configure_logs, log_for_command])
@pytest.mark.parametrize("level", ["debug", "info", "error"])
def test_drivers_log_at_warning_at_the_lowest(
    configure: Callable[[Settings], None], level: Literal["debug", "info", "error"]
) -> None:
    with kept_logging():
        configure(Settings(log_level=level))
        lowest = {logging.getLogger(name).getEffectiveLevel() for name in DRIVERS}
        ours = logging.getLogger("engine.models.registry").getEffectiveLevel()
    assert min(lowest) >= logging.WARNING
    assert (ours == logging.DEBUG) is (level == "debug")


@contextmanager
def kept_logging() -> Iterator[None]:
    """Put the handlers and levels of this process back."""
    root = logging.getLogger()
    loggers = [root, *(logging.getLogger(name) for name in logging.root.manager.loggerDict)]
    levels = [logger.level for logger in loggers]
    handlers = root.handlers[:]
    root.handlers.clear()
    try:
        yield
    finally:
        root.handlers[:] = handlers
        for logger, before in zip(loggers, levels, strict=True):
            logger.setLevel(before)
        for name in ("spanloom", "engine", "telemetry", "api", "alembic.runtime.migration", "uvicorn"):
            if logging.getLogger(name) not in loggers:
                logging.getLogger(name).setLevel(logging.NOTSET)
