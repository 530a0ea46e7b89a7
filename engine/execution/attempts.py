"""How attempts begin: the trace they join, the spans they link to, and the checkpoint they continue from."""

from dataclasses import replace

from opentelemetry.context import Context

from engine.identity import ExecutionIdentity
from engine.ledger import Claim
from engine.pause import Answer, Resume
from engine.request import Caller
from engine.tracing import semconv
from engine.tracing.attributes import Attributes
from engine.tracing.remote_spans import below, read_traceparent, remote_span, with_fixed_ids, write_traceparent
from engine.tracing.tracker import AttemptStart


def identity_at_start(claim: Claim) -> ExecutionIdentity:
    """The identity of the claimed attempt. A queued execution starts now, `age_seconds` after it was queued."""
    if claim.reason != "queued":
        return claim.identity
    waited_ns = max(1, round(claim.age_seconds * 1e9))
    return replace(claim.identity, started_ns=claim.identity.queued_ns + waited_ns)


def links_of(caller: Caller, *, joins: bool) -> list[str]:
    """The spans that a new execution links to. One that is queued does not join its caller's trace, but links to it.

    It may begin long after its caller has gone, and a child that outlives its parent breaks the trace's critical path.
    """
    contexts = [caller.trace_link] if joins else [caller.trace_context, caller.trace_link]
    return [link for link in map(write_traceparent, contexts) if link is not None]


def first_start(identity: ExecutionIdentity, parent: Context | None = None) -> AttemptStart:
    """Start a first attempt, in the trace of `parent` or in its own."""
    return AttemptStart(parent, [read_traceparent(link) for link in identity.links])


def later_start(claim: Claim) -> AttemptStart:
    """Start a claimed attempt. A later one is a child of the first root span and links to the previous attempt."""
    if claim.identity.attempt == 1:
        return replace(first_start(claim.identity, _first_place(claim)), age_seconds=claim.age_seconds)
    first, previous = claim.first_root, claim.previous_root
    return AttemptStart(
        parent=None if first is None else below(remote_span(first.trace_id, first.span_id)),
        links=[] if previous is None else [remote_span(previous.trace_id, previous.span_id)],
        age_seconds=claim.age_seconds,
        paused_seconds=claim.paused_seconds,
        extra=_resumption(claim),
    )


def _first_place(claim: Claim) -> Context | None:
    """Where the root span of a queued execution begins: under the ids that it got when it was accepted."""
    if claim.first_root is not None:
        return with_fixed_ids(remote_span(claim.first_root.trace_id, claim.first_root.span_id))
    return None if claim.caller_trace is None else below(read_traceparent(claim.caller_trace))


def _resumption(claim: Claim) -> Attributes:
    attributes: Attributes = {semconv.RESUME_REASON: claim.reason}
    if claim.reason == "answer" and claim.answers:
        newest = claim.answers[-1]
        attributes |= {semconv.APPROVAL_ID: newest.approval_id, semconv.APPROVAL_CHOICE: newest.choice}
    return attributes


def resume_of(claim: Claim | None) -> Resume | None:
    """Where a later attempt continues. A retried one starts from the input, but keeps the answers given so far."""
    if claim is None or claim.identity.attempt == 1:
        return None
    answers = [Answer(each.choice, each.data, each.answered_by, each.approval_id) for each in claim.answers]
    is_retried = claim.on_lost == "retry" and claim.reason in ("crash", "shutdown")
    earlier = range(claim.identity.attempt - 1, 0, -1)
    return Resume([] if is_retried else list(earlier), answers, is_due=claim.reason == "timer")
