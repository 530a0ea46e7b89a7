"""The dashboards as a person sees them: drawn by Grafana's panel library in a browser, from a service that was busy.

The pictures are kept in `.dev/drawn/`, which is not tracked.
"""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dashboards.generate import HOME
from telemetry.reconcile.job import ReconcileJob
from tests.conftest import StartCollector, found
from tests.dashboards.drawn.busy_service import LOADS, busy_service, run_everything
from tests.dashboards.drawn.drawing import Drawing, JsonObject, TimeRange, drawing
from tests.dashboards.drawn.flaws import flaws
from tests.dashboards.test_against_prometheus import configuration
from tests.house.lock import ROOT
from tests.services.chromium import server as chromium
from tests.services.grafana import server as grafana
from tests.services.process import free_port
from tests.services.prometheus.server import Json, JsonDocument, Prometheus

pytestmark = [
    pytest.mark.browser,
    pytest.mark.collector,
    pytest.mark.prometheus,
    pytest.mark.slow,
    pytest.mark.timeout(300),
]

PICTURES = ROOT / ".dev" / "drawn"
NOWHERE = "http://127.0.0.1:9"
"""Nothing listens on the port of `discard`."""


async def test_every_panel_can_be_read(
    migrated_sqlite_url: str,
    tmp_path: Path,
    start_prometheus: Callable[[JsonDocument], Prometheus],
    start_collector: StartCollector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found(chromium.fetch)
    found(grafana.files)
    collector = start_collector(JAEGER_OTLP_ENDPOINT=NOWHERE, RECORDS_OTLP_ENDPOINT=NOWHERE)
    for name, value in collector.sender_environment.items():
        monkeypatch.setenv(name, value)
    port = free_port()
    async with busy_service(migrated_sqlite_url, documents(tmp_path), port) as runner:
        config = configuration(port, tmp_path)
        jobs = config["scrape_configs"]
        assert isinstance(jobs, list)
        own: Json = {"job_name": "otelcol", "static_configs": [{"targets": [collector.own_metrics_address]}]}
        prometheus = await asyncio.to_thread(start_prometheus, {**config, "scrape_configs": [*jobs, own]})
        await ReconcileJob(runner.runtime.database, None).run_if_due()
        begun = time.time()
        results = await run_everything(runner)
        await asyncio.sleep(1)
        ended = int(time.time())
    assert len(results) > 200
    # The later half: the trend compares it with the one before.
    shown = TimeRange(ended - int((ended - begun) / 2), ended)
    async with drawing(prometheus) as pen:
        for file in sorted((HOME / "json").glob("*.json")):
            board = json.loads(file.read_text())
            seen = await pen.draw(board, shown, PICTURES / f"{file.stem}.png")
            assert flaws_of(board, seen) == [], f"see {PICTURES / file.stem}.png"
            if file.stem == "overview":
                has_a_row_for_each_workflow(board, seen)
        await finds_flaws(pen, shown, tmp_path)


def documents(folder: Path) -> Path:
    """What the workflows search."""
    searched = folder / "documents"
    searched.mkdir()
    (searched / "tower.md").write_text("# The tower\n\nThe answer to each question hangs in the north tower.\n")
    return searched


def flaws_of(board: JsonObject, seen: list[JsonObject]) -> list[str]:
    """The flaws of all panels of a dashboard."""
    panels = {panel["id"]: panel for panel in board["panels"]}
    assert {each["id"] for each in seen} == {id for id, panel in panels.items() if panel["type"] != "row"}
    return [flaw for each in seen for flaw in flaws(panels[each["id"]], each)]


def has_a_row_for_each_workflow(board: JsonObject, seen: list[JsonObject]) -> None:
    """The table names the workflows that ran, links each to its executions, and shows waste and unpriced calls."""
    [table] = [panel for panel in seen if panel["type"] == "table"]
    columns = {column["name"]: column for column in table["columns"]}
    assert set(columns["Workflow"]["cells"]) == {load.template for load in LOADS}
    assert columns["Workflow"]["links"] == ["${service}/v1/executions?template=${__data.fields.Workflow}"]
    unpriced = dict(zip(columns["Workflow"]["cells"], columns["Unpriced calls"]["cells"], strict=True))
    assert unpriced["classify-ticket"] == "0"
    waste = dict(zip(columns["Workflow"]["cells"], columns["Waste"]["cells"], strict=True))
    assert float(waste["summarise-report"].removeprefix("$")) > 0
    assert int(unpriced["translate"]) > 10


async def finds_flaws(pen: Drawing, shown: TimeRange, folder: Path) -> None:
    """Each flaw is seen where it is planted."""
    board = json.loads((HOME / "json" / "overview.json").read_text())
    panels: dict[str, JsonObject] = {f"{panel['title']}/{panel['type']}": panel for panel in board["panels"]}
    del panels["Executions/stat"]["fieldConfig"]["defaults"]["thresholds"]
    panels["Cost/stat"]["targets"][0]["expr"] = "no_such_metric"
    panels["Failure rate/timeseries"]["targets"][0]["expr"] = "vector(1)"
    panels["Executions by status/timeseries"]["fieldConfig"]["defaults"]["custom"]["axisLabel"] = ""
    panels["Why executions fail/timeseries"]["targets"][0]["expr"] = "no_such_metric"
    panels["Budget left/timeseries"]["fieldConfig"]["defaults"]["min"] = 0
    burn = panels["Burn rate/timeseries"]["fieldConfig"]["defaults"]
    burn["max"] = burn["custom"]["axisSoftMax"] = 0.001
    panels["Workflows/table"]["fieldConfig"]["defaults"]["custom"]["minWidth"] = 400
    panels["Workflows/table"]["transformations"][1]["options"]["renameByName"].pop("Value #B")
    seen = await pen.draw(board, shown, folder / "flaws.png")
    said = "\n".join(flaws_of(board, seen))
    for flaw in (
        "Executions: has Grafana's default thresholds",
        "Cost: is empty",
        "Failure rate: has a series named 'Value",
        "Executions by status: has an axis without a unit",
        "Why executions fail: is empty",
        "Budget left: cuts summarise-report off",
        "Burn rate: does not show its limit 14.4",
        "Burn rate: cuts summarise-report off",
        "Workflows: has columns beyond its right edge",
        "Workflows: has a column named 'Value #B'",
    ):
        assert flaw in said, said
