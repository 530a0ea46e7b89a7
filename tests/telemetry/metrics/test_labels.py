"""Label values are a closed set."""

from telemetry.metrics.labels import LabelCap
from telemetry.reads.workflow_labels import OTHER


def test_a_long_label_value_is_no_value() -> None:
    assert LabelCap()("a" * 513) == OTHER


def test_a_known_label_value_stays_known() -> None:
    cap = LabelCap(limit=1)
    assert [cap("a"), cap("b"), cap("a")] == ["a", OTHER, "a"]


def test_no_value_is_always_there() -> None:
    cap = LabelCap(limit=1)
    assert [cap("a"), cap("")] == ["a", ""]
