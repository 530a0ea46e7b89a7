"""The contribution of spans to their execution: which spans count in its seal, and their sums."""

from collections.abc import Iterable

from engine.resources import OFFLINE_PROVIDER, CostSource
from engine.tracing import semconv
from engine.usage import Totals, Usage
from telemetry.signals.records import Kind, SpanRecord

ALWAYS_RECORDED = frozenset({Kind.WORKFLOW, Kind.MODEL})
"""Kinds of spans that every record level stores."""


def is_recorded(span: SpanRecord) -> bool:
    """Whether the execution's record level stores the span."""
    return span.identity.record_level != "summary" or span.kind in ALWAYS_RECORDED


def totals_of(spans: Iterable[SpanRecord]) -> Totals:
    """The sums over the spans of one attempt, each given once."""
    totals = Totals()
    for span in spans:
        if span.kind is Kind.MODEL:
            _add_call(totals, span)
        elif span.kind is Kind.NODE:
            totals.nodes_total += span.integer(semconv.NODE_ATTEMPT) == 1
            totals.nodes_failed += span.status == "failed"
            totals.nodes_retried += span.status == "retrying"
        elif span.kind is Kind.TOOL:
            totals.tool_calls += 1
        if span.kind in (Kind.TOOL, Kind.RETRIEVAL):
            totals.tool_seconds += span.seconds
    return totals


def _add_call(totals: Totals, span: SpanRecord) -> None:
    totals.model_calls += 1
    totals.offline_calls += span.text(semconv.PROVIDER) == OFFLINE_PROVIDER
    totals.model_seconds += span.seconds
    totals.add_call(
        _usage(span),
        span.integer(semconv.COST_NANO_USD),
        failed=span.text(semconv.ERROR_TYPE) is not None,
        wasted=span.text(semconv.CALL_WASTE) is not None,
        assumed=span.text(semconv.COST_SOURCE) == CostSource.ASSUMED,
    )


def _usage(span: SpanRecord) -> Usage:
    return Usage.of_counts({name: span.integer(key) for name, key in semconv.CALL_TOKENS.items()})
