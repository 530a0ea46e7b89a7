"""Metrics of model calls and tool calls under the names of the GenAI conventions.

Units, bounds and labels are those of the conventions; the workflow's name stands for that of the agent. The modality
of tokens is always `unknown`, because not all providers report it.
"""

from prometheus_client import CollectorRegistry, Counter, Histogram

from engine.tracing import semconv
from engine.usage import TOKEN_KINDS
from telemetry.metrics.labels import Children, SpanLabels
from telemetry.signals.records import Kind, SpanRecord

TOKEN_TYPES = {semconv.CALL_TOKENS[kind.field]: kind.label for kind in TOKEN_KINDS}
"""Attribute to the value of the label `gen_ai_token_type`."""

_WHOLE = {semconv.CALL_TOKENS[name]: name for name in ("input_tokens", "output_tokens")}
"""The kinds that each call has, by attribute; the others are parts of them."""

_SECONDS = tuple(round(0.01 * 2**exponent, 2) for exponent in range(14))
_TOKENS = tuple(4**exponent for exponent in range(14))

_CALL_LABELS = (
    "gen_ai_operation_name",
    "gen_ai_provider_name",
    "gen_ai_request_model",
    "gen_ai_response_model",
    "server_address",
    "server_port",
    "workflow_name",
)
_TOOL_LABELS = ("gen_ai_tool_name", "gen_ai_tool_type", "workflow_name", "error_type")
_FORMER_LABELS = ("gen_ai_token_type", "gen_ai_provider_name", "gen_ai_request_model", "workflow_name")
_MODALITY = "unknown"


class GenAiMetrics:
    """Counts the spans of model calls and tool calls."""

    def __init__(self, registry: CollectorRegistry, labels: SpanLabels, *, former_names: bool) -> None:
        """`former_names`: tokens are counted under their former name, too."""

        def histogram(
            name: str, meaning: str, labelled: tuple[str, ...], bounds: tuple[float, ...]
        ) -> Children[Histogram]:
            return Children(Histogram(f"gen_ai_{name}", meaning, labelled, buckets=bounds, registry=registry))

        self._labels = labels
        self._duration = histogram(
            "client_inference_duration_seconds", "Duration of model calls", (*_CALL_LABELS, "error_type"), _SECONDS
        )
        self._first_chunk = histogram(
            "client_inference_time_to_first_chunk_seconds",
            "Time from a streamed model call to its first chunk",
            _CALL_LABELS,
            _SECONDS,
        )
        self._tool = histogram("execute_tool_duration_seconds", "Duration of tool calls", _TOOL_LABELS, _SECONDS)
        self._of_call = {
            key: histogram(f"client_inference_operation_{name}", "Tokens per model call", _CALL_LABELS, _TOKENS)
            for key, name in _WHOLE.items()
        }
        self._former = (
            histogram("client_token_usage", "Tokens per model call (former name)", _FORMER_LABELS, _TOKENS)
            if former_names
            else None
        )
        self._used = {
            semconv.CALL_TOKENS[kind.field]: Children(
                Counter(
                    f"gen_ai_client_inference_usage_{kind.genai_key.replace('.', '_')}",
                    f"Tokens of model calls: {kind.meaning}",
                    (*_CALL_LABELS, "gen_ai_token_modality"),
                    registry=registry,
                )
            )
            for kind in TOKEN_KINDS
        }

    def feed(self, span: SpanRecord, exemplar: dict[str, str]) -> None:
        """Count a span that has become durable."""
        if span.kind is Kind.MODEL:
            self._feed_call(span, exemplar)
        elif span.kind is Kind.TOOL:
            labels = self._labels
            tool = (labels.of("tool", span, semconv.TOOL_NAME), labels.of("tool_type", span, semconv.TOOL_TYPE))
            error = labels.of("error_type", span, semconv.ERROR_TYPE)
            self._tool[*tool, labels.workflow(span), error].observe(span.seconds, exemplar)

    def _feed_call(self, span: SpanRecord, exemplar: dict[str, str]) -> None:
        labels = self._call_labels(span)
        error = self._labels.of("error_type", span, semconv.ERROR_TYPE)
        self._duration[*labels, error].observe(span.seconds, exemplar)
        first_chunk = span.attributes.get(semconv.TIME_TO_FIRST_CHUNK)
        if isinstance(first_chunk, int | float):
            self._first_chunk[labels].observe(first_chunk, exemplar)
        for key, used in self._used.items():
            tokens = span.integer(key)
            if tokens is not None or key in _WHOLE:  # a call that told nothing counts 0, so that the series exists
                used[*labels, _MODALITY].inc(tokens or 0)
            if tokens is not None and key in self._of_call:
                self._of_call[key][labels].observe(tokens, exemplar)
            if tokens is not None and self._former is not None:
                self._former[TOKEN_TYPES[key], *labels[1:3], labels[-1]].observe(tokens)

    def _call_labels(self, span: SpanRecord) -> tuple[str, ...]:
        of = self._labels.of
        provider, model = of("provider", span, semconv.PROVIDER), of("model", span, semconv.REQUEST_MODEL)
        return (
            semconv.SPAN_CHAT,
            provider,
            model,
            self._labels.answering(span, provider, model),
            of("server_address", span, semconv.SERVER_ADDRESS),
            of("server_port", span, semconv.SERVER_PORT),
            self._labels.workflow(span),
        )
