"""Limits the number of values per label, so that workflow and model names cannot flood Prometheus."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Generic, TypeVar

from prometheus_client.metrics import MetricWrapperBase

from engine.tracing import semconv
from telemetry.reads.workflow_labels import OTHER
from telemetry.signals.records import SpanRecord

MAX_LABEL_VALUES = 200
MAX_LABEL_CHARACTERS = 512
MAX_RESPONSE_MODELS = 20
"""The most models under whose names one requested model answers: its server chooses them."""

MAX_AD_HOC_VALUES = 150
"""The most that names of workflows that are stored nowhere may take of them: callers choose these names."""


class LabelCap:
    """Lets the first 200 values of a label through; each later one, and one that is too long, becomes `_other`."""

    def __init__(self, limit: int = MAX_LABEL_VALUES) -> None:
        self._limit = limit
        self._known: set[str] = set()

    def __call__(self, value: str, limit: int | None = None) -> str:
        """The value, or `_other` if there are as many as the limit; a lower `limit` leaves the rest to others."""
        if not value or value in self._known:
            return value
        if len(self._known) >= (self._limit if limit is None else limit) or len(value) > MAX_LABEL_CHARACTERS:
            return OTHER
        self._known.add(value)
        return value

    def reserve(self, values: Iterable[str]) -> None:
        """Give values their places before they are met."""
        for value in values:
            self(value)


M = TypeVar("M", bound=MetricWrapperBase)


class Children(dict[tuple[str, ...], M], Generic[M]):
    """The series of a metric by their labels, since finding one through its metric takes microseconds."""

    def __init__(self, metric: M) -> None:
        self._metric = metric

    def __missing__(self, labels: tuple[str, ...]) -> M:
        child = self[labels] = self._metric.labels(*labels)
        return child


class SpanLabels:
    """The labels of spans; each has a limit of its own."""

    def __init__(self) -> None:
        self._caps: defaultdict[str, LabelCap] = defaultdict(LabelCap)
        self._workflows = LabelCap()
        self._answering = defaultdict[tuple[str, str], LabelCap](lambda: LabelCap(MAX_RESPONSE_MODELS))

    def reserve(self, workflows: Iterable[str]) -> None:
        """Give stored workflows their places among the values of the label."""
        self._workflows.reserve(workflows)

    def workflow(self, span: SpanRecord) -> str:
        """The name of the span's workflow."""
        return self._workflows(span.identity.workflow_name, MAX_AD_HOC_VALUES if span.identity.is_ad_hoc else None)

    def of(self, label: str, span: SpanRecord, key: str) -> str:
        """The value of an attribute; empty if the span has none."""
        return self._caps[label](_text_of(span, key))

    def answering(self, span: SpanRecord, provider: str, model: str) -> str:
        """The model that answered for the requested one, given by the values of its labels; empty if none did."""
        return self._answering[provider, model](_text_of(span, semconv.RESPONSE_MODEL))


def _text_of(span: SpanRecord, key: str) -> str:
    value = span.fields.get(key)
    if value is None:
        value = span.attributes.get(key, "")
    return value if isinstance(value, str) else str(value).lower()
