"""What providers report on a call: tokens, service tier and cost, read from their own documents.

SDKs and LangChain add up what is repeated, turn missing counts into 0, and drop the usage of an answer that they
refuse. The reports on one call are cumulative: of each figure the last report counts, never the sum.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation

from engine.models.counts import IMPOSSIBLE
from engine.usage import NANO_PER_USD, CallUsage, UsageReport

_MAX_TIER_LETTERS = 32
_MAX_KEY_LETTERS = 80
_MAX_UNREAD_KEYS = 16
_MAX_FIGURES = 200
"""More figures than any provider reports; later ones are left out, so that a hostile server fills no memory."""
_MAX_DEPTH = 4

Figure = int | float | str


class Figures:
    """The newest figures of one call by path (`prompt_tokens_details.cached_tokens`), and which of them were read."""

    def __init__(self, told: Mapping[str, Figure]) -> None:
        self._told = told
        self._read: set[str] = set()

    def first(self, *paths: str) -> int | None:
        """The count under the first path that was reported; null if none was."""
        self._read.update(paths)
        return next((_count(self._told[path]) for path in paths if path in self._told), None)

    def sum(self, *paths: str) -> int | None:
        """The sum of the counts that were reported; null if none was."""
        self._read.update(paths)
        counts = [_count(self._told[path]) for path in paths if path in self._told]
        return sum(counts) if counts else None

    def amount(self, *paths: str) -> Decimal | None:
        """The first amount that was reported; null if none was, or if it cannot be one."""
        self._read.update(paths)
        for path in paths:
            if path in self._told:
                return _amount(self._told[path])
        return None

    def flag(self, path: str) -> bool:
        """Whether this was reported as true."""
        self._read.add(path)
        return self._told.get(path) is True

    def skip(self, *paths: str) -> None:
        """Count these as read: they repeat others or cost nothing. A path stands for all below it, too."""
        self._read.update(path for path in self._told if path.startswith(tuple(f"{skipped}." for skipped in paths)))
        self._read.update(paths)

    def skip_usual(self, path: str, *usual: str) -> None:
        """Count this as read if it has one of these values; any other one may have a price of its own."""
        if self._told.get(path) in usual:
            self._read.add(path)

    def unread(self) -> tuple[str, ...]:
        """The paths of figures that nobody read. A zero says nothing yet."""
        unread = sorted(path for path in self._told.keys() - self._read if self._told[path] != 0)
        return tuple(path[:_MAX_KEY_LETTERS] for path in unread[:_MAX_UNREAD_KEYS])


Reader = Callable[[Figures], CallUsage]
"""Makes the usage of the figures of one protocol."""


class Reported:
    """What a provider has reported on one call so far."""

    def __init__(self) -> None:
        self._told: dict[str, Figure] = {}
        self._reader: Reader | None = None
        self._tier: str | None = None
        self.is_blocked = False
        """Whether the provider refused the prompt, as Gemini does in an answer without a candidate."""
        self.number = 0
        """How many reports there were."""

    def hear(self, document: Mapping[str, object], reader: Reader) -> None:
        """Take the report of a document or an event of a stream, if it holds one."""
        for outer in (document, document.get("message"), document.get("response")):
            if isinstance(outer, dict):
                self._hear(outer, reader, is_start=document.get("type") == "message_start")
        feedback = document.get("promptFeedback")
        self.is_blocked = self.is_blocked or (isinstance(feedback, dict) and bool(feedback.get("blockReason")))

    def _hear(self, outer: Mapping[str, object], reader: Reader, *, is_start: bool) -> None:
        """Anthropic's first event counts the output before there is any: that is no report."""
        usage = outer.get("usage") or outer.get("usageMetadata")
        if not isinstance(usage, dict):
            return
        for path, value in _flat(usage):
            is_early = is_start and path == "output_tokens"
            is_lost = value == 0 and path in self._told  # a sum does not fall back to 0
            if not (is_early or is_lost) and (path in self._told or len(self._told) < _MAX_FIGURES):
                self._told[path] = value
        tier = outer.get("service_tier") or usage.get("service_tier") or usage.get("serviceTier")
        if isinstance(tier, str):
            self._tier = tier[:_MAX_TIER_LETTERS]
        self._reader = reader
        self.number += 1

    def report(self, *, is_partial: bool) -> UsageReport | None:
        """All reports in one; null if there was none."""
        if self._reader is None:
            return None
        figures = Figures(self._told)
        figures.skip("service_tier", "serviceTier")
        usage, cost = self._reader(figures), _cost(figures)
        is_told = any(count is not None for count in usage.model_dump().values())
        return UsageReport(usage if is_told else None, self._tier, cost, figures.unread(), is_partial)


_LISTENING: ContextVar[Reported | None] = ContextVar("reported", default=None)


@contextmanager
def listening(reported: Reported) -> Iterator[None]:
    """Let the responses to the requests that are sent meanwhile report here."""
    token = _LISTENING.set(reported)
    try:
        yield
    finally:
        _LISTENING.reset(token)


def listener() -> Reported | None:
    """Who listens to the response of a request that is sent now; null if nobody does."""
    return _LISTENING.get()


def openai_usage(figures: Figures) -> CallUsage:
    """The usage of `/chat/completions` and `/responses`, as OpenAI and the servers that speak its protocol report it.

    Some of these (xAI, Gemini) count reasoning beside the completion instead of in it; their total says so.
    """
    read, written = _openai_details(figures, "prompt", "input"), _openai_details(figures, "completion", "output")
    inputs, outputs = (
        figures.first("prompt_tokens", "input_tokens"),
        figures.first("completion_tokens", "output_tokens"),
    )
    reasoning, total = figures.first(*written("reasoning_tokens"), "reasoning_tokens"), figures.first("total_tokens")
    if reasoning and None not in (inputs, outputs) and total == (inputs or 0) + (outputs or 0) + reasoning:
        outputs = (outputs or 0) + reasoning
    figures.skip("prompt_cache_miss_tokens", *read("text_tokens"), *read("cache_type"))
    figures.skip(*read("cache_write_tokens_details.ttl_30m_tokens"), *read("cache_creation.ephemeral_5m_input_tokens"))
    figures.skip(*written("text_tokens"), *written("accepted_prediction_tokens"))
    figures.skip(*written("rejected_prediction_tokens"))
    figures.skip("queue_time", "prompt_time", "completion_time", "total_time")  # Groq's seconds
    return CallUsage.of_counts(
        {
            "input_tokens": inputs,
            "output_tokens": outputs,
            "cache_read_tokens": figures.first(
                *read("cached_tokens"), "prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens"
            ),
            "cache_write_tokens": figures.first(
                *read("cache_write_tokens"), *read("cache_creation_input_tokens"), "cache_creation_input_tokens"
            ),
            "reasoning_tokens": reasoning,
            "cache_write_1h_tokens": figures.first(*read("cache_creation.ephemeral_1h_input_tokens")),
            "input_audio_tokens": figures.first(*read("audio_tokens")),
            "input_image_tokens": figures.first(*read("image_tokens")),
            "input_video_tokens": figures.first(*read("video_tokens")),
            "output_audio_tokens": figures.first(*written("audio_tokens")),
            "output_image_tokens": figures.first(*written("image_tokens")),
            "cache_audio_read_tokens": figures.first(*read("cached_tokens_details.audio_tokens")),
            "cache_image_read_tokens": figures.first(*read("cached_tokens_details.image_tokens")),
        }
    )


def _openai_details(figures: Figures, *sides: str) -> Callable[[str], list[str]]:
    """Makes the paths of a detail: the two protocols name the sides differently."""
    figures.skip(*(f"{side}_tokens_details.cached_tokens_details.text_tokens" for side in sides))
    return lambda name: [f"{side}_tokens_details.{name}" for side in sides]


def anthropic_usage(figures: Figures) -> CallUsage:
    """The usage of `/v1/messages`. `input_tokens` counts only what is neither read from the cache nor written to it."""
    an_hour = figures.first("cache_creation.ephemeral_1h_input_tokens")
    parts = figures.sum("cache_creation.ephemeral_5m_input_tokens", "cache_creation.ephemeral_1h_input_tokens")
    plain, read = figures.first("input_tokens"), figures.first("cache_read_input_tokens")
    whole = figures.first("cache_creation_input_tokens")
    written = parts or whole
    figures.skip("server_tool_use.web_fetch_requests")
    figures.skip_usual("speed", "standard")
    figures.skip_usual("inference_geo", "global", "not_available")
    return CallUsage.of_counts(
        {
            "input_tokens": None if plain is None else plain + (read or 0) + (written or 0),
            "output_tokens": figures.first("output_tokens"),
            "cache_read_tokens": read,
            "cache_write_tokens": written,
            "reasoning_tokens": figures.first("output_tokens_details.thinking_tokens"),
            "cache_write_1h_tokens": an_hour,
        }
    )


def gemini_usage(figures: Figures) -> CallUsage:
    """The usage of `:generateContent`. Its JSON leaves out zeros: a prompt that was blocked has no output at all."""
    inputs = figures.sum("promptTokenCount", "toolUsePromptTokenCount")
    outputs = figures.sum("candidatesTokenCount", "thoughtsTokenCount")
    total = figures.first("totalTokenCount")
    if outputs is None and total is not None and inputs is not None and total >= inputs:
        outputs = total - inputs
    asked, answered = ("promptTokensDetails", "toolUsePromptTokensDetails"), ("candidatesTokensDetails",)
    cached = ("cacheTokensDetails",)
    for kind in ("TEXT", "DOCUMENT"):
        figures.skip(*(f"{details}.{kind}" for details in (*asked, *answered, *cached)))
    figures.skip("trafficType")

    def of(details: tuple[str, ...], modality: str) -> int | None:
        return figures.sum(*(f"{name}.{modality}" for name in details))

    return CallUsage.of_counts(
        {
            "input_tokens": inputs,
            "output_tokens": outputs,
            "cache_read_tokens": figures.first("cachedContentTokenCount"),
            "reasoning_tokens": figures.first("thoughtsTokenCount"),
            "input_audio_tokens": of(asked, "AUDIO"),
            "input_image_tokens": of(asked, "IMAGE"),
            "input_video_tokens": of(asked, "VIDEO"),
            "output_audio_tokens": of(answered, "AUDIO"),
            "output_image_tokens": of(answered, "IMAGE"),
            "cache_audio_read_tokens": of(cached, "AUDIO"),
            "cache_image_read_tokens": of(cached, "IMAGE"),
            "cache_video_read_tokens": of(cached, "VIDEO"),
        }
    )


def _cost(figures: Figures) -> int | None:
    """The cost that OpenRouter and others report, in nano-USD.

    With a key of one's own at the provider behind it, OpenRouter reports its fee, and beside it what that provider
    charges.
    """
    figures.skip("cost_details", "is_byok", "cost.input_tokens_cost", "cost.output_tokens_cost", "cost.request_cost")
    usd, beside = figures.amount("cost", "cost.total_cost"), figures.amount("cost_details.upstream_inference_cost")
    if usd is None:
        return None
    if figures.flag("is_byok"):
        usd += beside or 0
    return int((usd * NANO_PER_USD).to_integral_value(ROUND_HALF_EVEN))


def _flat(value: object, path: str = "") -> Iterator[tuple[str, Figure]]:
    """The figures below a value by path; a list of counts by modality (Gemini) as if it were an object."""
    if path.count(".") >= _MAX_DEPTH:
        yield path, 1
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for inner in value:
            if isinstance(inner, dict) and "modality" in inner:
                yield f"{path}.{inner['modality']}", _figure(inner.get("tokenCount", 0))
            elif inner is not None:
                yield f"{path}[]", 1  # no figure of its own, only a sign that there is something unread
    elif value is not None:
        yield path, _figure(value)


def _figure(value: object) -> Figure:
    return value if isinstance(value, int | float | str) else str(value)


def _count(figure: Figure) -> int:
    return figure if type(figure) is int else IMPOSSIBLE


def _amount(figure: Figure) -> Decimal | None:
    try:
        amount = Decimal(str(figure))
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and 0 <= amount < NANO_PER_USD else None
