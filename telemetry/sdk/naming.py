"""Reads from `OTEL_SEMCONV_STABILITY_OPT_IN` whether names that the GenAI conventions have changed are emitted, too."""

import os

from engine.tracing import semconv

_VARIABLE = "OTEL_SEMCONV_STABILITY_OPT_IN"
_NEWEST_ONLY = "gen_ai_latest_experimental"


def has_former_names() -> bool:
    """Whether former names stand beside the new ones: unless the variable, a list separated by commas, opts out.

    Its other values are about other conventions and are ignored, as OpenTelemetry asks for.
    """
    return _NEWEST_ONLY not in [value.strip() for value in os.environ.get(_VARIABLE, "").split(",")]


def left_out_names() -> frozenset[str]:
    """The attributes and events of the engine that are not emitted."""
    return frozenset() if has_former_names() else frozenset(each.former for each in semconv.RENAMED)
