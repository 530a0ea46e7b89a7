"""Tables of webhook endpoints and deliveries."""

from dataclasses import replace

import pytest

from api.cli.rendering.webhooks import deliveries_table, endpoints_table
from telemetry.webhooks.deliveries import Delivery
from telemetry.webhooks.endpoints import Endpoint
from tests.api.cli.rendering.samples import START, drawn

ID = "01a20b67-faf4-7719-bc23-b6fe37111acf"
ENDPOINT = Endpoint(
    id=ID,
    owner="default",
    url="https://hooks.example/a",
    description=None,
    events=["workflow.execution.failed"],
    templates=None,
    header_names=[],
    status="active",
    disabled_at=None,
    disabled_reason=None,
    failing_since=None,
    failures_in_row=0,
    old_valid_until=None,
    created_at=START,
    updated_at=START,
)
DELIVERY = Delivery(
    id=ID,
    event_id="msg_1",
    endpoint_id="01a20b67-faf5-7719-bc23-b6fe37111acf",
    execution_id=None,
    event_type="workflow.execution.failed",
    state="pending",
    attempts=1,
    next_attempt_at=START,
    last_attempt_at=START,
    last_status=500,
    last_error="status 500",
    created_at=START,
    ended_at=None,
)


@pytest.mark.parametrize("width", [80, 160])
def test_ids_are_whole_at_any_width(width: int) -> None:
    for lines in (
        drawn(endpoints_table([ENDPOINT], width=width), width),
        drawn(deliveries_table([DELIVERY], width=width), width),
    ):
        assert lines[2].split()[0] == ID
        assert max(map(len, lines)) <= width


def test_a_wide_terminal_shows_when_and_where_a_delivery_is_sent_next() -> None:
    line = drawn(deliveries_table([DELIVERY], width=160), 160)[2]
    assert "2026-01-02 03:04:05" in line
    assert DELIVERY.endpoint_id in line


def test_an_active_endpoint_whose_deliveries_fail_is_shown_as_failing() -> None:
    assert "failing (3)" in drawn(endpoints_table([replace(ENDPOINT, failures_in_row=3)], width=80))[2]
