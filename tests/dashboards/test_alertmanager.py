"""alertmanager.yml: one problem is one message, and each receiver in it works once it is uncommented."""

import json
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml

from dashboards.generate import HOME
from tests.conftest import found
from tests.inbox import listening
from tests.services.alertmanager import server as alertmanager_service
from tests.services.alertmanager.server import Alertmanager
from tests.services.detached import wait_for
from tests.services.prometheus.server import JsonDocument

pytestmark = pytest.mark.alertmanager

Document: TypeAlias = dict[str, Any]
"""Alertmanager's configuration, an alert, or a message: JSON of other programs."""

SHIPPED = HOME / "alertmanager.yml"
RECEIVERS = ("slack", "mail", "pagerduty", "webhook")
FAST, BURN, SLOW, SLOWER, NOTHING = (
    "SpanloomFailuresBurnFast",
    "SpanloomFailuresBurn",
    "SpanloomFailuresBurnSlowly",
    "SpanloomFailuresBurnVerySlowly",
    "SpanloomNothingCompletes",
)
PAGES = {FAST, BURN}
RUNBOOK = "https://flows.example/runbook#spanloomfailuresburnfast"
EXECUTIONS = "https://flows.example/v1/executions?status=failed&template=my+flow"

Start = Callable[[JsonDocument], Alertmanager]


def with_receiver(name: str) -> str:
    """The shipped file with one receiver uncommented and everything routed to it."""
    text = SHIPPED.read_text().replace("receiver: team", f"receiver: {name}", 1)
    block = re.compile(rf"^  # (- name: {name}\b.*\n(?:  #   .*\n)+)", re.MULTILINE)
    return block.sub(lambda match: re.sub(r"^(  )# ", r"\1", f"  # {match[1]}", flags=re.MULTILINE), text, count=1)


@pytest.mark.parametrize("name", RECEIVERS)
def test_amtool_takes_a_receiver_when_it_is_uncommented(name: str, tmp_path: Path) -> None:
    file = tmp_path / "alertmanager.yml"
    file.write_text(with_receiver(name))
    assert name in {receiver["name"] for receiver in yaml.safe_load(file.read_text())["receivers"]}
    assert found(lambda: alertmanager_service.check_config(file)) == ""


def test_amtool_sees_a_misspelt_key(tmp_path: Path) -> None:
    file = tmp_path / "alertmanager.yml"
    file.write_text(with_receiver("slack").replace("channel:", "chanel:"))
    assert "chanel" in found(lambda: alertmanager_service.check_config(file))


def test_the_shipped_file_is_taken_as_it_is() -> None:
    assert found(lambda: alertmanager_service.check_config(SHIPPED)) == ""


@pytest.mark.parametrize(
    ("firing", "heard"),
    [
        ({FAST, BURN, SLOW, SLOWER, NOTHING}, {FAST}),
        ({BURN, SLOW, SLOWER}, {BURN}),
        ({SLOW, SLOWER}, {SLOW}),
        ({SLOWER, NOTHING}, {SLOWER, NOTHING}),
    ],
    ids=["all", "not fast", "slowly", "two different ones"],
)
def test_one_problem_is_one_message(start_alertmanager: Start, firing: set[str], heard: set[str]) -> None:
    manager = start_alertmanager(yaml.safe_load(SHIPPED.read_text()))
    fire(manager, [an_alert(name, "a") for name in firing] + [an_alert(SLOWER, "b")])
    assert wait_for(lambda: len(active(manager)) + len(active(manager, "suppressed")) == len(firing) + 1, seconds=10)
    assert wait_for(lambda: active(manager) == {(name, "a") for name in heard} | {(SLOWER, "b")}, seconds=10)


@pytest.mark.parametrize("name", ["slack", "pagerduty", "webhook"])
def test_a_message_has_the_text_and_the_links(start_alertmanager: Start, tmp_path: Path, name: str) -> None:
    with listening() as inbox:
        config = delivered_to(yaml.safe_load(with_receiver(name)), inbox.url, tmp_path)
        fire(start_alertmanager(config), [an_alert(FAST, "my flow")])
        assert inbox.wait_for(lambda: inbox.requests != [])
    said = json.dumps(json.loads(inbox.requests[0].body))
    for text in ("my flow fails too often", "burns 17 times its error budget", RUNBOOK, EXECUTIONS):
        assert text in said
    assert "<no value>" not in said


def delivered_to(config: Document, url: str, folder: Path) -> JsonDocument:
    """The configuration with the addresses and secrets of the test, sending at once."""
    config["route"] |= {"group_wait": "0s"}
    secret = folder / "secret"
    secret.write_text(f"{url}/slack")
    for receiver in config["receivers"]:
        for settings in (setting for kind, several in receiver.items() if kind != "name" for setting in several):
            for key in settings.keys() & {"api_url_file", "routing_key_file"}:
                settings[key] = str(secret)
            if "routing_key_file" in settings:
                settings["url"] = f"{url}/pagerduty"
            elif "url" in settings:
                settings |= {"url": f"{url}/webhook", "http_config": {"authorization": {"credentials": "secret"}}}
    return config


def an_alert(name: str, template: str) -> Document:
    """An alert as Prometheus sends it."""
    return {
        "labels": {"alertname": name, "template": template, "severity": "page" if name in PAGES else "ticket"},
        "annotations": {
            "summary": f"{template} fails too often",
            "description": f"{template} burns 17 times its error budget over 1h; the limit is 14.4.",
            "runbook_url": RUNBOOK,
            "executions_url": EXECUTIONS,
        },
    }


def fire(manager: Alertmanager, alerts: list[Document]) -> None:
    """Send alerts."""
    request = urllib.request.Request(
        f"{manager.url}/api/v2/alerts", json.dumps(alerts).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


def active(manager: Alertmanager, state: str = "active") -> set[tuple[str, str]]:
    """Name and template of the alerts that are sent, or that another one suppresses."""
    with urllib.request.urlopen(f"{manager.url}/api/v2/alerts", timeout=10) as answer:
        alerts = json.load(answer)
    shown = (alert["labels"] for alert in alerts if alert["status"]["state"] == state)
    return {(labels["alertname"], labels["template"]) for labels in shown}
