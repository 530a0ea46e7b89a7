"""The log of this process: one sentence with fields per line, as text or as JSON, with secrets redacted."""

import logging
import sys
import traceback
from datetime import UTC, datetime

import orjson
from opentelemetry import trace

from api.settings import Settings
from engine.documents.json_text import to_json
from engine.security.redaction import redact

_OF_EVERY_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}

_TELL_URLS = ("httpx2", "httpcore2")
"""Loggers that write the URLs of requests. URLs of webhooks may hold secrets."""


def configure_logs(settings: Settings) -> None:
    """Log to standard error as the settings say."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if settings.logs_as_json else TextLines())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    for name in _TELL_URLS:
        logging.getLogger(name).setLevel(logging.WARNING)


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
        return redact(to_json(line, default=str, options=orjson.OPT_NON_STR_KEYS).decode())


class TextLines(logging.Formatter):
    """Formats a record as text: time, level, sentence, fields."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        first, *rest = super().format(record).split("\n")
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        return redact("\n".join([first + fields, *rest]))


def _fields(record: logging.LogRecord) -> dict[str, object]:
    span = trace.get_current_span().get_span_context()
    known: dict[str, object] = {"trace_id": trace.format_trace_id(span.trace_id)} if span.is_valid else {}
    return known | {name: value for name, value in vars(record).items() if name not in _OF_EVERY_RECORD}
