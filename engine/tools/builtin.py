"""The built-in tools."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from engine.errors import ExpressionError, ResourceMissing, ToolFailed
from engine.expressions.cel import BadExpression, evaluate, parse
from engine.graph import Json, JsonObject
from engine.resources import Effect, Tool, ToolContext, ToolSpec

MAX_EXPRESSION_CHARACTERS = 1_000

MAX_SEARCH_DOCUMENTS = 20

_LITERAL = re.compile(r"(?<![\w.])(\d+)(?![\w.])")

_DECIMAL = re.compile(r"\d\.\d|\d[eE]|/")

_TEXT = re.compile(r"['\"]")

_LARGEST_EXACT = 2**53


def builtin_tools(clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> dict[str, Tool]:
    """The built-in tools by name."""
    tools: tuple[Tool, ...] = (SearchDocs(), Calculate(), CurrentTime(clock))
    return {tool.spec.name: tool for tool in tools}


class SearchDocs:
    """The tool `search_docs`, which searches with the workflow's retriever."""

    spec = ToolSpec(
        name="search_docs",
        description=(
            "Search the user's documents and get the passages that fit best, each with source and score (0 to 1). "
            "Use it for every question whose answer may be in the documents, before you answer from memory, "
            "and name the source of what you use. Search again in other words if nothing fits."
        ),
        parameters={
            "type": "object",
            "properties": {
                "query": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 1_000,
                    "description": "What to look for: a question or a few key words",
                },
                "max_documents": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": MAX_SEARCH_DOCUMENTS,
                    "default": 5,
                    "description": "How many passages to return at most",
                },
            },
            "required": ["query"],
            "additionalProperties": False,
        },
    )
    effect: Effect = "read"

    async def call(self, arguments: JsonObject, context: ToolContext) -> Json:
        """A list of `{source, text, score}`, best first. Raises `ResourceMissing` without a retriever."""
        if context.search is None:
            raise ResourceMissing("there are no documents to search: the workflow uses no retriever")
        wanted = arguments.get("max_documents", 5)
        found = await context.search(str(arguments["query"]), wanted if isinstance(wanted, int) else 5)
        return [{"source": passage.source, "text": passage.text, "score": passage.score} for passage in found]


class Calculate:
    """The tool `calculate`: arithmetic as in CEL, except that whole numbers and decimals may be mixed."""

    spec = ToolSpec(
        name="calculate",
        description=(
            "Work out an arithmetic expression and get the exact number. Use it for every calculation instead of doing "
            "it in your head. It knows + - * / % (remainder of whole numbers), parentheses, comparisons and a ? b : c; "
            "it knows no powers, units, percent signs, thousands separators or functions."
        ),
        parameters={
            "type": "object",
            "properties": {
                "expression": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": MAX_EXPRESSION_CHARACTERS,
                    "description": "The arithmetic expression, for example (3 + 4) * 21.5 / 2",
                }
            },
            "required": ["expression"],
            "additionalProperties": False,
        },
    )
    effect: Effect = "read"

    async def call(self, arguments: JsonObject, context: ToolContext) -> Json:
        """The result. Raises `ExpressionError` with the reason."""
        return calculate(str(arguments["expression"]))


def calculate(text: str) -> Json:
    """The value of an arithmetic expression.

    If the text contains `/` or a decimal point, all numbers become decimals, so `7 / 2` is 3.5 and `2 * 21.5` is 43.
    Otherwise whole numbers stay exact. Raises `ExpressionError`.
    """
    if _DECIMAL.search(text) and not _TEXT.search(text):
        text = _LITERAL.sub(r"\1.0", text)
    try:
        value = evaluate(parse(text), {})
    except BadExpression as error:
        raise ExpressionError(f"the expression cannot be calculated: {error}") from error
    if isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST_EXACT:
        return int(value)
    return value


class CurrentTime:
    """The tool `current_time`, which reads the engine's clock."""

    spec = ToolSpec(
        name="current_time",
        description=(
            "Get the current date, time and day of the week, in UTC or in a time zone. "
            "Use it whenever an answer depends on today's date or on what time it is now."
        ),
        parameters={
            "type": "object",
            "properties": {
                "time_zone": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 64,
                    "description": "IANA name such as Europe/Berlin or America/New_York; UTC if left out",
                }
            },
            "additionalProperties": False,
        },
    )
    effect: Effect = "read"

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock

    async def call(self, arguments: JsonObject, context: ToolContext) -> Json:
        """The time as `2026-11-24T02:20:00+01:00 (Tuesday, Europe/Berlin)`. Raises `ToolFailed` for an unknown zone."""
        name = str(arguments.get("time_zone", "UTC"))
        try:
            zone = ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ToolFailed("unknown time zone; use an IANA name such as Europe/Berlin") from error
        now = self._clock().astimezone(zone)
        return f"{now.isoformat(timespec='seconds')} ({now:%A}, {name})"
