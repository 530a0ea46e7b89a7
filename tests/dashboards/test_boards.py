"""The dashboards are those of the generator, are such as Grafana loads, and ask for what is told."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards import generate
from dashboards.alerts import RATIO_WINDOWS
from dashboards.boards import BOARDS, board_files, panel_queries
from dashboards.options import Options
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


def test_there_are_five_dashboards_of_one_uid_each() -> None:
    assert list(FILES) == ["overview.json", "cost.json", "nodes.json", "models.json", "telemetry.json"]
    assert len({board["uid"] for board in FILES.values()}) == len(BOARDS)


@pytest.mark.parametrize("name", FILES)
def test_one_variable_filters_every_panel_by_workflow(name: str) -> None:
    variables = {variable["name"]: variable for variable in FILES[name].get("templating", {}).get("list", [])}
    if name == "telemetry.json":
        assert variables == {}, "the health of the bookkeeping belongs to no workflow"
        return
    assert variables.keys() - {"window"} == {"workflow", "service"}
    assert variables["workflow"]["current"]["value"] == ["$__all"]
    for panel in drawn(FILES[name]):
        for target in panel["targets"]:
            unfiltered = [selector for selector in _SELECTOR.findall(target["expr"]) if '=~"$workflow"' not in selector]
            assert unfiltered == [], (panel["title"], target["expr"])


_SELECTOR = re.compile(r"\{([^}]*)\}")


@pytest.mark.parametrize("name", FILES)
def test_grafana_12_1_reads_the_version_of_the_schema(name: str) -> None:
    assert FILES[name]["schemaVersion"] <= 41


@pytest.mark.parametrize("name", FILES)
def test_no_panel_cuts_off_what_is_below_zero(name: str) -> None:
    limited = [
        panel["title"] for panel in drawn(FILES[name]) if panel["fieldConfig"]["defaults"].keys() & {"min", "max"}
    ]
    assert limited == []


@pytest.mark.parametrize("name", FILES)
def test_a_line_does_not_change_with_the_zoom(name: str) -> None:
    """`increase` over the interval of the picture grows with it; a rate does not."""
    for panel in drawn(FILES[name]):
        for target in panel["targets"]:
            assert not re.search(r"increase\([^()]*\[\$__rate_interval\]\)", target["expr"]) or " / (" in target["expr"]


def test_tokens_are_summed_up_over_input_and_output_alone() -> None:
    """Cached tokens are part of the input, reasoning tokens of the output."""
    found = [query.expr for query in panel_queries() if "spanloom_tokens_total" in query.expr]
    assert len(found) > 4
    for expr in found:
        assert all(re.search(r'type(=~"input\|output"|="\w+")', each) for each in _SELECTOR.findall(expr)), expr


def test_numbers_are_coloured_by_the_limits_of_the_alerts() -> None:
    """Counts and sums of money are neither good nor bad."""
    marks = {
        panel["title"]: [
            (mark["value"], mark["color"]) for mark in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        ]
        for board in FILES.values()
        for panel in drawn(board)
        if panel["type"] == "stat"
    }
    plain = {title for title, steps in marks.items() if steps == [(None, "text")]}
    assert {"Executions", "Failed", "Cost", "Waste", "Tokens"} <= plain
    assert marks["Failure rate"] == [(None, "green"), (0.01, "orange"), (0.05, "red")]
    assert marks["Budget left"] == [(None, "red"), (0, "orange"), (0.25, "green")]
    assert marks["Records behind"][-1] == (Options().lag_seconds, "red")
    assert marks["Books compared"][-1] == (Options().overdue_seconds, "red")


def test_the_burn_rate_has_one_line_per_workflow_and_a_mark_per_limit() -> None:
    [panel] = [one for one in drawn(FILES["overview.json"]) if one["title"] == "Burn rate"]
    assert ["rate$window{" in target["expr"] for target in panel["targets"]] == [True]
    marks = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert [mark["value"] for mark in marks] == [None, 6, 14.4]
    [windows] = [each for each in FILES["overview.json"]["templating"]["list"] if each["name"] == "window"]
    assert windows["query"].split(",") == list(RATIO_WINDOWS)


def test_points_of_panels_lead_to_traces_in_jaeger_by_the_data_source() -> None:
    """A link of a panel does not reach exemplars; Grafana follows the data source's setting."""
    [panel] = [one for one in drawn(FILES["overview.json"]) if one["title"] == "Failed executions, with their traces"]
    assert [target["exemplar"] for target in panel["targets"]] == [True]
    sources = yaml.safe_load((generate.HOME / "grafana" / "datasources.yml").read_text())["datasources"]
    by_uid = {source["uid"]: source for source in sources}
    [to] = by_uid["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert (to["name"], by_uid[to["datasourceUid"]]["type"]) == ("trace_id", "jaeger")


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
    assert [query.expr for query in panel_queries() if re.search(r"\$[a-z_]", query.expr)] == []
