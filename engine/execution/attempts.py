"""How attempts begin: the trace they join, the spans they link to, and the checkpoint they continue from."""

from dataclasses import replace

from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, get_current_span, set_span_in_context

from engine.identity import ExecutionIdentity
from engine.ledger import Claim, Root
from engine.pause import Answer, Resume
from engine.request import Caller
from engine.tracing import semconv
from engine.tracing.attributes import Attributes
from engine.tracing.tracker import AttemptStart

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


def identity_at_start(claim: Claim) -> ExecutionIdentity:
    """The identity of the claimed attempt. A queued execution starts now, `age_seconds` after it was queued."""
    if claim.reason != "queued":
        return claim.identity
    waited_ns = max(1, round(claim.age_seconds * 1e9))
    return replace(claim.identity, started_ns=claim.identity.queued_ns + waited_ns)


def first_start(caller: Caller) -> AttemptStart:
    """Start a first attempt in the caller's trace, or with a link to it."""
    linked = get_current_span(caller.trace_link).get_span_context() if caller.trace_link is not None else None
    return AttemptStart(caller.trace_context, [linked] if linked is not None else [])


def later_start(claim: Claim) -> AttemptStart:
    """Start a claimed attempt: in its caller's trace if it was queued, else with a link to the previous attempt."""
    if claim.identity.attempt == 1:
        return AttemptStart(_parent_of(claim.caller_trace), age_seconds=claim.age_seconds)
    previous = claim.previous_root
    return AttemptStart(
        links=[] if previous is None else [_span_context(previous)],
        age_seconds=claim.age_seconds,
        paused_seconds=claim.paused_seconds,
        extra=_resumption(claim),
    )


def _resumption(claim: Claim) -> Attributes:
    attributes: Attributes = {semconv.RESUME_REASON: claim.reason}
    if claim.reason == "answer" and claim.answers:
        newest = claim.answers[-1]
        attributes |= {semconv.APPROVAL_ID: newest.approval_id, semconv.APPROVAL_CHOICE: newest.choice}
    return attributes


def _span_context(root: Root) -> SpanContext:
    return SpanContext(int(root.trace_id, 16), int(root.span_id, 16), is_remote=True, trace_flags=_SAMPLED)


def traceparent(caller: Caller) -> str | None:
    """The caller's trace as a `traceparent`, which the process that runs the execution joins."""
    if caller.trace_context is None:
        return None
    span = get_current_span(caller.trace_context).get_span_context()
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-01" if span.is_valid else None


def _parent_of(traceparent: str | None) -> Context | None:
    if traceparent is None:
        return None
    _, trace_id, span_id, _ = traceparent.split("-")
    context = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=_SAMPLED)
    return set_span_in_context(NonRecordingSpan(context), Context())


def resume_of(claim: Claim | None) -> Resume | None:
    """Where a later attempt continues. A retried one starts from the input, but keeps the answers given so far."""
    if claim is None or claim.identity.attempt == 1:
        return None
    answers = [Answer(each.choice, each.data, each.answered_by, each.approval_id) for each in claim.answers]
    is_retried = claim.on_lost == "retry" and claim.reason in ("crash", "shutdown")
    earlier = range(claim.identity.attempt - 1, 0, -1)
    return Resume([] if is_retried else list(earlier), answers, is_due=claim.reason == "timer")
