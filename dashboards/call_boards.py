"""The dashboards of what happens inside executions: nodes, tools, retrievals, and calls of models."""

from dashboards.panels import Board, Row
from dashboards.queries import (
    BY_MODEL,
    BY_TOOL,
    BY_TYPE,
    BY_WORKFLOW,
    CHATS,
    CHOSEN,
    FAILED_SPAN,
    NODES,
    RETRIEVALS,
    TOKENS_OF_CALL,
    TOOLS,
    a_minute,
    failed_spans,
    failure_share,
    hourly,
    lines,
    or_none,
    quantile,
    tokens_a_minute,
)

_OF_NODES = Row(
    "Nodes",
    [
        lines(
            "Node attempts",
            "Per minute, by type of node.",
            or_none(a_minute(NODES, BY_TYPE), BY_TYPE),
            BY_TYPE,
            axis="attempts per minute",
            stacked=True,
        ),
        lines(
            "Failed node attempts, with their traces",
            "Per minute, including handled and retried failures; the points lead to traces.",
            or_none(failed_spans(NODES + FAILED_SPAN, BY_TYPE), BY_TYPE),
            BY_TYPE,
            axis="failures per minute",
            exemplars=True,
        ),
        lines("Duration, 95 %", "By type.", quantile(0.95, NODES, BY_TYPE), BY_TYPE, "s", exemplars=True),
        lines(
            "Why nodes fail",
            "Failures per minute by error type.",
            or_none(a_minute(NODES + FAILED_SPAN, "error_type"), "error_type"),
            "error_type",
            axis="failures per minute",
            stacked=True,
        ),
    ],
)
_OF_TOOLS = Row(
    "Tools",
    [
        lines(
            "Tool calls",
            "Per minute, by tool.",
            or_none(a_minute(TOOLS, BY_TOOL), BY_TOOL),
            BY_TOOL,
            axis="calls per minute",
            stacked=True,
            width=8,
        ),
        lines(
            "Failed tool calls, with their traces",
            "Per minute; the points lead to traces.",
            or_none(failed_spans(TOOLS + FAILED_SPAN, BY_TOOL), BY_TOOL),
            BY_TOOL,
            axis="failures per minute",
            exemplars=True,
            width=8,
        ),
        lines("Duration of tool calls, 95 %", "By tool.", quantile(0.95, TOOLS, BY_TOOL), BY_TOOL, "s", width=8),
    ],
)
_OF_RETRIEVAL = Row(
    "Retrieval",
    [
        lines(
            "Retrievals",
            "Per minute, by workflow.",
            or_none(a_minute(RETRIEVALS, BY_WORKFLOW), BY_WORKFLOW),
            BY_WORKFLOW,
            axis="retrievals per minute",
            stacked=True,
        ),
        lines(
            "Duration of retrievals, 95 %",
            "By workflow.",
            quantile(0.95, RETRIEVALS, BY_WORKFLOW),
            BY_WORKFLOW,
            "s",
        ),
    ],
)
NODE_BOARD = Board(
    "nodes",
    "nodes",
    "Inside executions: nodes by type, tools, retrieval.",
    [_OF_NODES, _OF_TOOLS, _OF_RETRIEVAL],
)

_OF_CALLS = Row(
    "Calls",
    [
        lines(
            "Model calls",
            "Per minute, by model.",
            or_none(a_minute(CHATS, BY_MODEL), BY_MODEL),
            BY_MODEL,
            axis="calls per minute",
            stacked=True,
        ),
        lines(
            "Error rate",
            "Failed calls as a share of all calls.",
            failure_share(CHATS, BY_MODEL),
            BY_MODEL,
            "percentunit",
        ),
        lines(
            "Failed model calls, with their traces",
            "Per minute, including calls that were retried; the points lead to traces.",
            or_none(failed_spans(CHATS + FAILED_SPAN, BY_MODEL), BY_MODEL),
            BY_MODEL,
            axis="failures per minute",
            exemplars=True,
        ),
        lines(
            "Why calls fail",
            "Failures per minute by error type.",
            or_none(a_minute(CHATS + FAILED_SPAN, "error_type"), "error_type"),
            "error_type",
            axis="failures per minute",
            stacked=True,
        ),
    ],
)
_OF_LATENCY = Row(
    "Latency",
    [
        lines("Duration, median", "By model.", quantile(0.5, CHATS, BY_MODEL), BY_MODEL, "s", exemplars=True),
        lines("Duration, 95 %", "By model.", quantile(0.95, CHATS, BY_MODEL), BY_MODEL, "s", exemplars=True),
    ],
)
_OF_TOKENS = Row(
    "Tokens and cost",
    [
        *(
            lines(
                f"{kind.capitalize()} tokens of a call, 95 %",
                "By model.",
                quantile(0.95, CHOSEN, BY_MODEL, f"{TOKENS_OF_CALL}_{kind}_tokens"),
                BY_MODEL,
                axis="tokens",
            )
            for kind in ("input", "output")
        ),
        lines(
            "Tokens by model",
            "Input and output tokens, exact, from the books.",
            or_none(tokens_a_minute("model"), "model"),
            "model",
            axis="tokens per minute",
            stacked=True,
        ),
        lines(
            "Cost per hour",
            "Exact, from the books.",
            or_none(hourly("model"), "model"),
            "model",
            "currencyUSD",
            axis="per hour",
            stacked=True,
        ),
    ],
)
MODELS = Board(
    "models",
    "models",
    "Model calls, one per attempt at a provider: volume, errors, latency, tokens.",
    [_OF_CALLS, _OF_LATENCY, _OF_TOKENS],
)
