"""The log of this process: one sentence with fields per line, as text or as JSON, with secrets redacted.

Only our own loggers follow `SPANLOOM_LOG_LEVEL`. Drivers and clients log at warning at the lowest: at debug they write
statements with their values, requests with prompts, and URLs with keys.
"""

import logging
import sys
import traceback
from datetime import UTC, datetime
from textwrap import indent

from opentelemetry import trace

from api.settings import Settings
from engine.security.printable import one_line, printable, printable_json
from engine.security.redaction import know_secrets, redact

_OF_EVERY_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}

_OURS = ("spanloom", "engine", "telemetry", "api", "alembic.runtime.migration", "uvicorn")
"""Loggers of our packages, and of the two libraries whose sentences hold no content."""


def configure_logs(settings: Settings) -> None:
    """Log to standard error as the settings say."""
    know_secrets(settings.secrets)
    _log_to_stderr(JsonLines() if settings.logs_as_json else TextLines(), settings.log_level)


def log_for_command(settings: Settings) -> None:
    """Log errors of a command to standard error; with `SPANLOOM_LOG_LEVEL=debug` everything, with tracebacks."""
    know_secrets(settings.secrets)
    is_debug = settings.log_level == "debug"
    _log_to_stderr(TextLines("spanloom: %(message)s", with_traceback=is_debug), "debug" if is_debug else "error")


def _log_to_stderr(formatter: logging.Formatter, level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    ours = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(level=max(ours, logging.WARNING), handlers=[handler], force=True)
    for name in _OURS:
        logging.getLogger(name).setLevel(ours)


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object, with its fields and its trace id."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return redact(printable_json(line, default=str))


class TextLines(logging.Formatter):
    """Formats a record as text: time, level, sentence, fields. Further lines, of a traceback, are indented.

    So no text in a record can look like a record of its own.
    """

    def __init__(self, form: str = "%(asctime)s %(levelname)-7s %(message)s", *, with_traceback: bool = True) -> None:
        super().__init__(form, "%H:%M:%S")
        self._with_traceback = with_traceback

    def format(self, record: logging.LogRecord) -> str:
        record.message, record.asctime = record.getMessage(), self.formatTime(record, self.datefmt)
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        line = one_line(redact(self.formatMessage(record) + fields))
        if not (record.exc_info and self._with_traceback):
            return line
        return f"{line}\n{indent(printable(redact(self.formatException(record.exc_info))), '  ')}"


def _fields(record: logging.LogRecord) -> dict[str, object]:
    span = trace.get_current_span().get_span_context()
    known: dict[str, object] = {"trace_id": trace.format_trace_id(span.trace_id)} if span.is_valid else {}
    return known | {name: value for name, value in vars(record).items() if name not in _OF_EVERY_RECORD}
