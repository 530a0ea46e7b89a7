"""The model `offline:extractive`, which answers without a key or a network by quoting the texts in the request.

It generates no text. If a bound tool fits the question, it calls the tool and answers from the result. Otherwise it
quotes the sentences that fit the question best (BM25), each with its source. Without such texts it describes itself.

Each text sent and the answer count one token per four bytes of UTF-8, rounded up. The price is a demo.
"""

import itertools
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass

import orjson

from engine.documents.framing import unframe
from engine.documents.json_text import to_json
from engine.errors import ModelFailure
from engine.graph import Json, JsonObject
from engine.resources import OFFLINE_PROVIDER, Message, ModelReply, ModelRequest, ToolCall, ToolSpec
from engine.retrieval.lexical import bm25, is_prose, sentences, terms, words
from engine.runtime.state import text_of
from engine.usage import Usage

OFFLINE = (OFFLINE_PROVIDER, "extractive")
"""Provider and model, as written in graphs and `SPANLOOM_MODEL`."""

NOTICE = (
    "No provider's key is set, so the offline model answers as a demo: it only quotes. "
    "Set OPENAI_API_KEY, ANTHROPIC_API_KEY or GOOGLE_API_KEY for a language model."
)
"""Said at the start of a process in which the offline model is the default and nobody named it."""

SELF_DESCRIPTION = (
    "I am spanloom's offline model: I quote the texts I am given and call tools, but write nothing of my own. "
    "Here I was given no text that fits. Let a workflow retrieve documents for me (rag_chat, document_qa), "
    "or name a model of a provider whose key is set."
)

_BYTES_PER_TOKEN = 4
_QUOTES = 3
_NEARLY_AS_GOOD = 0.6
_NOT_PROSE = 0.5
_HEADING = 0.3
_SHORT_RESULT = 200
_CONVERSATION = "earlier in this conversation"
_THIS_MESSAGE = "your message"

_SUMMARIZE = re.compile(r"\b(?:summar|zusammenfass)", re.IGNORECASE)
_ARITHMETIC = re.compile(r"[-+]?\(*\s*\d[\d\s.()]*(?:[-+*/%]\s*\(*\s*[-+]?\d[\d\s.()]*)+")
_DATE = re.compile(r"\b\d{4}-\d\d-\d\d\b")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_ZONE = re.compile(r"\b[A-Z][A-Za-z]+(?:/[A-Z][A-Za-z_]+)+\b|\bUTC\b")
_QUESTION = re.compile(r"\?|^\s*(?:who|what|when|where|why|which|how|is|are|does|find|search|look)\b", re.IGNORECASE)
_OPERATORS = {"divided by": "/", "times": "*", "plus": "+", "minus": "-", "×": "*", "÷": "/"}


@dataclass(frozen=True, slots=True)
class _Passage:
    source: str
    text: str


class OfflineModel:
    """The offline model. It needs no settings and keeps no state between calls."""

    @property
    def provider(self) -> str:
        """Always `offline`."""
        return OFFLINE[0]

    @property
    def model(self) -> str:
        """Always `extractive`."""
        return OFFLINE[1]

    @property
    def server_address(self) -> str | None:
        """Null: the model runs in this process."""
        return None

    async def invoke(self, request: ModelRequest) -> ModelReply:
        """The answer. Raises `ModelFailure` if the request has a `response_schema`: the model cannot generate data."""
        return _reply(request)

    async def stream(self, request: ModelRequest) -> AsyncIterator[str | ModelReply]:
        """Yield the answer word by word, then the complete reply. Raises as `invoke` does."""
        reply = _reply(request)
        for word in words(reply.text):
            yield word
        yield reply

    def estimate_input_tokens(self, request: ModelRequest) -> int:
        """The exact number of input tokens."""
        return _input_tokens(request)


def _reply(request: ModelRequest) -> ModelReply:
    if request.settings.response_schema is not None:
        raise ModelFailure("bad_request", "the offline model cannot fill a response_schema; use a provider's model")
    call = _fitting_call(request)
    text, finish = ("", "tool_calls") if call else _within_settings(_answer(request.messages), request)
    output = _tokens([text, _dumps(call) if call else ""])
    read = _input_tokens(request)
    return ModelReply(
        text=text,
        tool_calls=(call,) if call else (),
        finish_reason=finish,
        model=OFFLINE[1],
        usage=Usage(input_tokens=read, output_tokens=output, total_tokens=read + output),
    )


def _within_settings(text: str, request: ModelRequest) -> tuple[str, str]:
    for stop in request.settings.stop:
        text = text.partition(stop)[0]
    room = request.settings.max_tokens * _BYTES_PER_TOKEN
    if len(text.encode()) <= room:
        return text, "stop"
    return text.encode()[:room].decode("utf-8", "ignore"), "length"


def _answer(messages: Sequence[Message]) -> str:
    results = _results(messages)
    question, passages = _question_and_passages(messages)
    if results:
        return _from_results(question, results)
    if not passages:
        return SELF_DESCRIPTION
    if _SUMMARIZE.search(question):
        return " ".join(quote.text for quote in _central_quotes(passages))
    quotes = _best_quotes(question, passages)
    if quotes:
        return "\n".join(f"“{quote.text}” ({quote.source})" for quote in quotes)
    if all(passage.source == _CONVERSATION for passage in passages):
        return SELF_DESCRIPTION
    sources = list(dict.fromkeys(passage.source for passage in passages))
    shown = ", ".join(sources[:_QUOTES]) + (" and others" if len(sources) > _QUOTES else "")
    return f"I find nothing about that in the given texts ({shown})."


def _question_and_passages(messages: Sequence[Message]) -> tuple[str, list[_Passage]]:
    """The question and its source texts: the framed ones, else the rest of the message, else earlier messages."""
    asked = next((position for position, m in reversed(list(enumerate(messages))) if m["role"] == "user"), None)
    if asked is None:
        return "", []
    framed, rest = unframe(text_of(messages[asked]))
    if framed:
        return rest, [_Passage(source, text) for source, text in framed]
    question, body = _split(rest)
    if body:
        return question, [_Passage(_THIS_MESSAGE, body)]
    earlier = [unframe(text_of(m))[1] for m in messages[:asked] if m["role"] == "user"]
    return rest, [_Passage(_CONVERSATION, text) for text in earlier if text]


def _split(text: str) -> tuple[str, str]:
    """Split a message into its question and the rest; messages of fewer than three sentences have no rest."""
    parts = sentences(text)
    if len(parts) < 3:
        return text, ""
    asked = next((part for part in reversed(parts) if part.endswith("?")), parts[0])
    return asked, "\n\n".join(part for part in parts if part != asked)


def _best_quotes(question: str, passages: Sequence[_Passage]) -> list[_Passage]:
    """Up to three sentences that fit the question: the best and those nearly as good. Echoes of it are left out."""
    echo = question.strip().casefold()
    quotes = [quote for quote in _sentences(passages) if echo not in quote.text.casefold()]
    asked = terms(question)
    texts, sources = [terms(quote.text) for quote in quotes], [terms(quote.source) for quote in quotes]
    scores = [
        (in_text + _HEADING * in_source)
        * len({*asked} & {*text, *source})
        * (1 if is_prose(quote.text) else _NOT_PROSE)
        for quote, text, source, in_text, in_source in zip(
            quotes, texts, sources, bm25(asked, texts), bm25(asked, sources), strict=True
        )
    ]
    ranked = sorted(range(len(quotes)), key=lambda position: -scores[position])[:_QUOTES]
    return [quotes[p] for p in ranked if scores[p] > 0 and scores[p] >= _NEARLY_AS_GOOD * scores[ranked[0]]]


def _central_quotes(passages: Sequence[_Passage]) -> list[_Passage]:
    """The three sentences that have most words in common with all others."""
    quotes = _sentences(passages)
    quotes = [quote for quote in quotes if is_prose(quote.text)] or quotes
    documents = [terms(quote.text) for quote in quotes]
    scores = bm25(list(itertools.chain.from_iterable(documents)), documents)
    ranked = sorted(range(len(quotes)), key=lambda position: -scores[position])[:_QUOTES]
    return [quotes[position] for position in sorted(ranked)]


def _sentences(passages: Iterable[_Passage]) -> list[_Passage]:
    found = [_Passage(passage.source, text) for passage in passages for text in sentences(passage.text)]
    long_enough = [quote for quote in found if len(quote.text.split()) > 2]
    return list(dict.fromkeys(long_enough or found))


def _results(messages: Sequence[Message]) -> list[tuple[ToolCall | None, Message]]:
    """The tool messages after the last user message, each with the call that it answers."""
    calls: dict[str, ToolCall] = {}
    found: list[tuple[ToolCall | None, Message]] = []
    for message in messages:
        if message["role"] == "user":
            found = []
        calls |= {call["id"]: call for call in message.get("tool_calls", ())}
        if message["role"] == "tool":
            found.append((calls.get(message["tool_call_id"]), message))
    return found


def _from_results(question: str, results: Iterable[tuple[ToolCall | None, Message]]) -> str:
    lines, passages = [], []
    for call, message in results:
        name, text = call["name"] if call else "the tool", text_of(message)
        if message.get("is_error"):
            lines.append(f"{name} failed: {text}")
        elif found := _passages(name, text):
            passages += found
        else:
            lines.append(f"{_call_text(call)} gives {text}." if call else text)
    quotes = _best_quotes(question, passages)
    lines += [f"“{quote.text}” ({quote.source})" for quote in quotes]
    return "\n".join(lines) or "The tools found nothing about that."


def _passages(name: str, text: str) -> list[_Passage]:
    """The quotable texts in a tool result: passages with a source, or one long text; none for a short value."""
    try:
        value: Json = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = text
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    if isinstance(value, list):
        return [
            _Passage(str(item.get("source", name)), str(item["text"]))
            for item in value
            if isinstance(item, dict) and "text" in item
        ]
    return [_Passage(name, value)] if isinstance(value, str) and len(value) > _SHORT_RESULT else []


def _call_text(call: ToolCall) -> str:
    arguments = ", ".join(str(value) for value in call["arguments"].values())
    return f"{call['name']}({arguments})"


def _fitting_call(request: ModelRequest) -> ToolCall | None:
    """A call of the bound tool that fits the question best; null if none fits or tools have already answered."""
    if not request.tools or _results(request.messages):
        return None
    question, passages = _question_and_passages(request.messages)
    can = [(tool, arguments) for tool in request.tools if (arguments := _arguments(tool, question)) is not None]
    if not question.strip() or not can:
        return None
    chosen = _choose(question, can, has_text=any(p.source != _CONVERSATION for p in passages))
    if chosen is None:
        return None
    tool, arguments = chosen
    return ToolCall(id=f"call-{len(request.messages)}", name=tool.name, arguments=arguments)


def _choose(
    question: str, can: Sequence[tuple[ToolSpec, JsonObject]], *, has_text: bool
) -> tuple[ToolSpec, JsonObject] | None:
    """Prefer a calculation, then the tool whose description fits the question best (BM25), then a search."""
    for tool, arguments in can:
        if any(_wants_expression(name, schema) for name, schema in _properties(tool).items() if name in arguments):
            return tool, arguments
    scores = bm25(terms(question), [terms(f"{tool.name.replace('_', ' ')} {tool.description}") for tool, _ in can])
    best = max(range(len(can)), key=lambda position: scores[position])
    if scores[best] > 0 and not has_text:
        return can[best]
    searches = [(tool, arguments) for tool, arguments in can if "query" in arguments]
    return searches[0] if searches and _QUESTION.search(question) and not has_text else None


def _arguments(tool: ToolSpec, question: str) -> JsonObject | None:
    """The tool's arguments, taken from the question; null if the question lacks a required one."""
    required = tool.parameters.get("required", [])
    found: JsonObject = {}
    for name, schema in _properties(tool).items():
        is_required = isinstance(required, list) and name in required
        value = _argument(name, schema, question, is_required=is_required)
        if value is not None:
            found[name] = value
        elif is_required:
            return None
    return found


def _argument(name: str, schema: JsonObject, question: str, *, is_required: bool) -> Json:
    choices = schema.get("enum")
    if isinstance(choices, list):
        return next((choice for choice in choices if str(choice).lower() in question.lower()), None)
    if _wants_expression(name, schema):
        return _expression(question)
    if "zone" in name:
        zone = _ZONE.search(question)
        return zone.group() if zone else None
    if not is_required:
        return None
    if schema.get("type") in {"number", "integer"}:
        number = _NUMBER.search(question)
        return None if number is None else orjson.loads(number.group())
    return question.strip() if schema.get("type") == "string" else None


def _wants_expression(name: str, schema: JsonObject) -> bool:
    return name in {"expression", "formula"} or "arithmetic" in str(schema.get("description", "")).lower()


def _expression(question: str) -> str | None:
    text = _DATE.sub("", question)
    for word, operator in _OPERATORS.items():
        text = text.replace(word, operator)
    found = _ARITHMETIC.search(text)
    return found.group().strip(" .\n") if found else None


def _properties(tool: ToolSpec) -> dict[str, JsonObject]:
    properties = tool.parameters.get("properties", {})
    if not isinstance(properties, dict):
        return {}
    return {name: schema for name, schema in properties.items() if isinstance(schema, dict)}


def _input_tokens(request: ModelRequest) -> int:
    tools = [_dumps({"name": t.name, "description": t.description, "parameters": t.parameters}) for t in request.tools]
    calls = [_dumps(call) for message in request.messages for call in message.get("tool_calls", ())]
    return _tokens([request.system, *map(text_of, request.messages), *tools, *calls])


def _tokens(texts: Iterable[str]) -> int:
    return sum(-(-len(text.encode()) // _BYTES_PER_TOKEN) for text in texts)


def _dumps(value: ToolCall | JsonObject) -> str:
    return to_json(value).decode()
