"""Label values are a closed set."""

from telemetry.metrics.labels import LabelCap
from telemetry.reads.workflow_labels import OTHER


def test_a_known_label_value_stays_known() -> None:
    cap = LabelCap(limit=1)
    assert [cap("a"), cap("b"), cap("a")] == ["a", OTHER, "a"]
