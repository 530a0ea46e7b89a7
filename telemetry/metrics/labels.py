"""Limits the number of values per label, so that workflow and model names cannot flood Prometheus."""

from collections.abc import Iterable

from telemetry.reads.workflow_labels import OTHER

MAX_LABEL_VALUES = 200

MAX_AD_HOC_VALUES = 150
"""The most that names of workflows that are stored nowhere may take of them: callers choose these names."""


class LabelCap:
    """Lets the first 200 values of a label through and replaces every later one by `_other`."""

    def __init__(self, limit: int = MAX_LABEL_VALUES) -> None:
        self._limit = limit
        self._known: set[str] = set()

    def __call__(self, value: str, limit: int | None = None) -> str:
        """The value, or `_other` if there are as many as the limit; a lower `limit` leaves the rest to others."""
        if value in self._known:
            return value
        if len(self._known) >= (self._limit if limit is None else limit):
            return OTHER
        self._known.add(value)
        return value

    def reserve(self, values: Iterable[str]) -> None:
        """Give values their places before they are met."""
        for value in values:
            self(value)
