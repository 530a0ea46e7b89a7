"""One alert goes the whole way: failing executions, Prometheus with the shipped rules, Alertmanager, a receiver."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from api.service.server import listen
from dashboards.generate import write_rules
from dashboards.options import Options
from engine.graph import JsonObject
from engine.testing.models import Fail
from tests.dashboards.test_against_prometheus import SCRAPE, serve_runner
from tests.inbox import Inbox, listening
from tests.services.alertmanager.server import Alertmanager
from tests.services.process import free_port
from tests.services.prometheus.server import JsonDocument, Prometheus
from tests.workflow_runner import request, workflow_runner

pytestmark = [pytest.mark.prometheus, pytest.mark.alertmanager, pytest.mark.slow]

SCALE = 1 / 240
"""An hour of the rules is a quarter of a minute here."""
ALERT = "SpanloomFailuresBurnFast"


@pytest.fixture
def pager() -> Iterator[Inbox]:
    """Where Alertmanager sends alerts."""
    with listening() as inbox:
        yield inbox


async def test_a_failing_template_pages_with_links_to_its_executions_and_the_runbook(
    migrated_sqlite_url: str,
    tmp_path: Path,
    pager: Inbox,
    start_prometheus: Callable[[JsonDocument], Prometheus],
    start_alertmanager: Callable[[JsonDocument], Alertmanager],
) -> None:
    port = free_port()
    service = f"http://127.0.0.1:{port}"
    async with workflow_runner(migrated_sqlite_url, keep_signals=False, public_url=service) as runner:
        with listen("127.0.0.1", port) as listener:
            manager = await asyncio.to_thread(start_alertmanager, routing(pager.url))
            async with serve_runner(runner, listener):
                await asyncio.to_thread(start_prometheus, configuration(tmp_path, service, manager.address))
                engine = runner.engine(lambda _: Fail("auth"))
                ids = set()
                for _ in range(600):
                    failing = request({"kind": "template", "template": "universal_chat"})
                    ids.add((await engine.execute(failing)).execution_id)
                    if ALERT in alerts(pager):
                        break
                    await asyncio.sleep(0.05)
                alert = alerts(pager)[ALERT]
                assert isinstance(alert["annotations"], dict)
                async with httpx2.AsyncClient(trust_env=False) as client:
                    listed = await client.get(str(alert["annotations"]["executions_url"]))
                    runbook = await client.get(str(alert["annotations"]["runbook_url"]))

    assert alert["labels"] == {"alertname": ALERT, "severity": "page", "template": "universal_chat"}
    assert alert["annotations"]["summary"] == "universal_chat fails too often"
    said = "universal_chat burns 100 times its error budget over 1h; the limit is 14.4."
    assert str(alert["annotations"]["description"]).startswith(said)
    assert alert["annotations"]["runbook_url"] == f"{service}/runbook#{ALERT.lower()}"
    assert f'<h2 id="{ALERT.lower()}">' in runbook.text
    found = {item["id"] for item in listed.json()["items"]}
    assert found
    assert found <= ids


def alerts(pager: Inbox) -> dict[str, JsonObject]:
    """The alerts that came, by name."""
    bodies = [json.loads(request.body) for request in pager.requests]
    return {alert["labels"]["alertname"]: alert for body in bodies for alert in body["alerts"]}


def routing(url: str) -> JsonDocument:
    """Everything at once to the pager."""
    receiver: JsonDocument = {"name": "pager", "webhook_configs": [{"url": url, "send_resolved": False}]}
    route: JsonDocument = {"receiver": "pager", "group_by": ["..."], "group_wait": "0s", "group_interval": "1s"}
    return {"route": route, "receivers": [receiver]}


def configuration(folder: Path, service: str, alertmanager: str) -> JsonDocument:
    """The shipped rules in a hurry, over the service."""
    rules = write_rules(folder / "rules", Options(scale=SCALE))
    target = service.removeprefix("http://")
    return {
        "global": {"scrape_interval": SCRAPE, "evaluation_interval": SCRAPE},
        "rule_files": [str(file) for file in rules],
        "scrape_configs": [{"job_name": "spanloom", "static_configs": [{"targets": [target]}]}],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
    }
