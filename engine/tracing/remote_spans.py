"""Spans of other processes by their ids: parents, linked spans, and root spans that begin in this process.

The ids of a root span are fixed when its execution is accepted. A queued execution gets them from the process that
accepts it, and the process that runs it begins the span under the same ids.
"""

from opentelemetry.context import Context, create_key, get_value, set_value
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, get_current_span, set_span_in_context

_FIXED = create_key("spanloom-fixed-ids")
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


def remote_span(trace_id: str, span_id: str) -> SpanContext:
    """A span of another process, from its ids in hex."""
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=_SAMPLED)


def below(span: SpanContext) -> Context:
    """A context in which the next span is a child of this one."""
    return set_span_in_context(NonRecordingSpan(span), Context())


def with_fixed_ids(span: SpanContext) -> Context:
    """A context in which the next span is a root with the ids of `span`, if the tracer is ours; others choose ids."""
    return set_value(_FIXED, span, Context())


def fixed_ids(context: Context | None) -> SpanContext | None:
    """The ids that the next span of this context has to take."""
    span = None if context is None else get_value(_FIXED, context)
    return span if isinstance(span, SpanContext) else None


def write_traceparent(context: Context | None) -> str | None:
    """The span of a context as a W3C `traceparent`; null if there is none."""
    span = get_current_span(context).get_span_context() if context is not None else None
    return None if span is None or not span.is_valid else f"00-{span.trace_id:032x}-{span.span_id:016x}-01"


def read_traceparent(traceparent: str) -> SpanContext:
    """The span that a `traceparent` of `write_traceparent` names."""
    _, trace_id, span_id, _ = traceparent.split("-")
    return remote_span(trace_id, span_id)
