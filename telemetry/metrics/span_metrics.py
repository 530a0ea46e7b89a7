"""Metrics of committed spans: calls, durations, cost and time to first token, with exemplars.

They are updated after each commit and start at 0 with the process.
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram

from engine.tracing import semconv
from telemetry.metrics.genai_metrics import GenAiMetrics
from telemetry.metrics.labels import SpanLabels
from telemetry.signals.records import Batch, Kind, SpanRecord

SERVICE = "spanloom"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)
_SPAN_LABELS = (
    "service_name",
    "span_kind",
    "status_code",
    "gen_ai_operation_name",
    "workflow_name",
    "workflow_source",
    "workflow_nested",
    "workflow_node_type",
    "workflow_execution_status",
    "gen_ai_request_model",
    "gen_ai_tool_name",
    "error_type",
    "workflow_error_class",
)


class SpanMetrics:
    """Counts the spans of committed batches."""

    def __init__(self, registry: CollectorRegistry, *, former_names: bool) -> None:
        """`former_names`: metrics that the GenAI conventions have renamed are there under both names."""
        self._labels = SpanLabels()
        self._genai = GenAiMetrics(registry, self._labels, former_names=former_names)
        self._span_children: dict[tuple[str, ...], tuple[Counter, Histogram]] = {}
        self._calls = Counter("traces_span_metrics_calls", "Ended spans", _SPAN_LABELS, registry=registry)
        self._durations = Histogram(
            "traces_span_metrics_duration_seconds",
            "Duration of spans",
            _SPAN_LABELS,
            buckets=_SECONDS,
            registry=registry,
        )
        call_labels = ("gen_ai_provider_name", "gen_ai_request_model", "workflow_name")
        self._cost = Counter(
            "workflow_cost_usd", "Cost of model calls", (*call_labels, "workflow_source"), registry=registry
        )
        self._rejected = Counter(
            "workflow_usage_rejected",
            "Model calls whose provider reported impossible token counts: their usage and cost are unknown",
            call_labels[:2],
            registry=registry,
        )
        self._first_token = Histogram(
            "workflow_time_to_first_token_seconds",
            "Time from the start of an execution to its first streamed token",
            ("workflow_name",),
            buckets=_SECONDS,
            registry=registry,
        )

    def reserve(self, workflows: Iterable[str]) -> None:
        """Give stored workflows their places among the values of the label."""
        self._labels.reserve(workflows)

    def feed(self, batch: Batch) -> None:
        """Count signals that have become durable."""
        for span in batch.spans:
            exemplar = {"trace_id": span.trace_id, "span_id": span.span_id}
            calls, durations = self._children(self._span_labels(span))
            calls.inc(exemplar=exemplar)
            durations.observe(span.seconds, exemplar)
            self._genai.feed(span, exemplar)
            if span.kind is Kind.MODEL:
                self._feed_call(span, exemplar)
            elif span.kind is Kind.WORKFLOW:
                self._feed_root(span, exemplar)

    def _feed_call(self, span: SpanRecord, exemplar: dict[str, str]) -> None:
        of = self._labels.of
        labels = (
            of("provider", span, semconv.PROVIDER),
            of("model", span, semconv.REQUEST_MODEL),
            self._labels.workflow(span),
        )
        if span.attributes.get(semconv.USAGE_REJECTED):
            self._rejected.labels(*labels[:2]).inc(exemplar=exemplar)
        cost = span.integer(semconv.COST_NANO_USD)
        if cost is not None:
            self._cost.labels(*labels, span.identity.workflow_source).inc(cost / 1e9, exemplar)

    def _feed_root(self, span: SpanRecord, exemplar: dict[str, str]) -> None:
        seconds = span.attributes.get(semconv.TIME_TO_FIRST_TOKEN)
        if isinstance(seconds, int | float):
            name = self._labels.workflow(span)
            self._first_token.labels(name).observe(seconds, exemplar)

    def _children(self, labels: tuple[str, ...]) -> tuple[Counter, Histogram]:
        children = self._span_children.get(labels)
        if children is None:
            children = (self._calls.labels(*labels), self._durations.labels(*labels))
            self._span_children[labels] = children
        return children

    def _span_labels(self, span: SpanRecord) -> tuple[str, ...]:
        of, is_root = self._labels.of, span.kind is Kind.WORKFLOW
        return (
            SERVICE,
            "SPAN_KIND_CLIENT" if span.kind.is_client else "SPAN_KIND_INTERNAL",
            _status_code(span),
            of("operation", span, semconv.OPERATION),
            self._labels.workflow(span),
            span.identity.workflow_source,
            of("nested", span, semconv.NESTED),
            of("node_type", span, semconv.NODE_TYPE),
            of("status", span, semconv.EXECUTION_STATUS) if is_root else "",
            of("model", span, semconv.REQUEST_MODEL),
            of("tool", span, semconv.TOOL_NAME),
            of("error_type", span, semconv.ERROR_TYPE),
            of("error_class", span, semconv.ERROR_CLASS) if is_root else "",
        )


def _status_code(span: SpanRecord) -> str:
    return "STATUS_CODE_ERROR" if span.is_error else "STATUS_CODE_OK" if span.is_ok else "STATUS_CODE_UNSET"
