"""The dashboards are those of the generator, are such as Grafana loads, and ask for what is told."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards import generate
from dashboards.boards import BOARDS, board_files, panel_queries
from engine.database.database import Database
from tests.dashboards.metric_names import known_metrics, problems

register_default_plugins()
FILES: dict[str, dict[str, Any]] = {name: json.loads(text) for name, text in board_files().items()}


def drawn(board: dict[str, Any]) -> list[dict[str, Any]]:
    """The panels of a dashboard that draw something."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def test_what_is_committed_is_what_would_be_generated(capsys: pytest.CaptureFixture[str]) -> None:
    assert (generate.main(["--check"]), capsys.readouterr().out) == (0, "")


def test_a_changed_file_and_one_too_many_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "HOME", tmp_path / "dashboards")
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    (tmp_path / "dashboards" / "json" / "cost.json").write_text("{}")
    (tmp_path / "dashboards" / "json" / "old.json").write_text("{}")
    assert generate.main(["--check"]) == 1
    said = capsys.readouterr().out
    assert "dashboards/json/cost.json is not up to date" in said
    assert "dashboards/json/old.json is not up to date" in said


@pytest.mark.parametrize("name", FILES)
def test_grafanas_own_model_reads_a_dashboard_and_writes_the_same(name: str) -> None:
    read = Dashboard.from_json(FILES[name])
    assert json.loads(JSONEncoder().encode(read)) == FILES[name]


@pytest.mark.parametrize("name", FILES)
def test_panels_have_ids_and_places_of_their_own(name: str) -> None:
    panels = FILES[name]["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    rows = [panel["gridPos"]["y"] for panel in panels if panel["type"] == "row"]
    assert all(above < below for above, below in pairwise(rows))


@pytest.mark.parametrize("name", FILES)
def test_every_panel_says_what_it_shows_and_asks_prometheus(name: str) -> None:
    for panel in drawn(FILES[name]):
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            assert target["datasource"] == {"type": "prometheus", "uid": "prometheus"}
            assert target["instant"] != target["range"]


def test_there_are_five_dashboards_with_the_same_variables() -> None:
    assert list(FILES) == ["overview.json", "cost.json", "nodes.json", "models.json", "telemetry.json"]
    names = ["workflow_name", "source", "template"]
    for board in FILES.values():
        assert [variable["name"] for variable in board["templating"]["list"]] == names
    assert len({board["uid"] for board in FILES.values()}) == len(BOARDS)


def test_points_of_the_failure_panel_lead_to_traces_in_jaeger() -> None:
    [panel] = [one for one in drawn(FILES["overview.json"]) if one["title"] == "Failed executions, with their traces"]
    assert [target["exemplar"] for target in panel["targets"]] == [True]
    [link] = panel["fieldConfig"]["defaults"]["links"]
    panes = json.loads(unquote(link["url"].partition("panes=")[2]))
    assert panes["t"]["datasource"] == "jaeger"
    assert panes["t"]["queries"][0]["query"] == "${__data.fields.trace_id}"


async def test_every_query_asks_for_metrics_and_labels_that_are_told(database: Database) -> None:
    known = await known_metrics(database)
    assert [problem for query in panel_queries() for problem in problems(query.expr, known)] == []


@pytest.mark.parametrize(
    ("expr", "problem"),
    [
        ("sum(spanloom_execution_total)", "no metric spanloom_execution_total"),
        ('spanloom_executions_total{workflow_name="a"}', "has no label workflow_name"),
        ("sum by (model) (spanloom_executions_total)", "no label model"),
    ],
)
async def test_a_query_for_what_nobody_tells_is_seen(database: Database, expr: str, problem: str) -> None:
    [found] = problems(expr, await known_metrics(database))
    assert problem in found


def test_no_variable_of_grafana_is_left_in_a_query_to_be_run() -> None:
    assert [query.expr for query in panel_queries() if "$" in query.expr] == []
