"""Callers name workflows and tags: each name has a row of its own, and no name takes over another or floods a table."""

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx2
import pytest
from sqlalchemy import func, select

from engine.database.database import Database
from engine.execution.sources import MAX_NAME_CHARACTERS, workflow_name
from engine.graph import JsonObject
from engine.templates.template import load_builtin
from engine.testing.models import Say
from telemetry.metrics.labels import MAX_LABEL_VALUES
from telemetry.reads import cost as cost_module
from telemetry.reads.cost import CostReport, Sums, cost
from telemetry.reads.cost_query import OF_ROLLUPS, CostFilter
from telemetry.reads.executions import ExecutionFilter, list_executions
from telemetry.reads.workflow_labels import OTHER
from telemetry.reconcile.audit import find_differences
from telemetry.reconcile.findings import Check
from telemetry.records.consumer import Records
from telemetry.signals.records import Batch
from telemetry.store.tables import execution_rollups
from tests.api.cli.shell import Shell
from tests.api.harness import ASK, Service, running
from tests.engine.harness import Harness, graph
from tests.telemetry.bookkeeper import Listener
from tests.telemetry.scraping import Samples, made, register, scrape

PRICE = 140_000
EXECUTED = "spanloom_executions_total"


@pytest.fixture
async def database(migrated_url: str, books_left_open: None) -> AsyncIterator[Database]:
    """Records of executions on both databases; nothing decided on them."""
    async with Database(migrated_url) as opened:
        yield opened


@pytest.fixture
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A folder in which commands run."""
    return Shell(tmp_path_factory.mktemp("shell"))


async def book(listener: Listener, database: Database) -> None:
    """Store what was reported."""
    async with database.begin() as connection:
        await Records().apply(connection, Batch.of(listener.signals()))
    differences = await find_differences(database)
    assert [each for each in differences if each.check is not Check.CONTROL] == []


def ran(listener: Listener, name: str, source: str = "graph", **changes: object) -> None:
    """An execution of a workflow that is stored nowhere."""
    given = {"template_id": None, "template_version": None} | changes
    story = listener.begin(workflow_name=name, source=source, **given)
    story.answer()
    story.tracker.complete()


async def report(database: Database, *group_by: str, **wanted: object) -> CostReport:
    """The cost as it is read."""
    async with database.read() as connection:
        return await cost(connection, CostFilter(**wanted), group_by)  # type: ignore[arg-type]  # named by the callers


def executions_by_label(samples: Samples) -> dict[str, float]:
    """Executions of the exact counters, by the label `template`."""
    counted: dict[str, float] = {}
    for name, value in samples.items():
        found = re.match(EXECUTED + r".*\('template', (.*?)\)\]$", name)
        if found:
            label = str(json.loads(found[1].replace("'", '"')))
            counted[label] = counted.get(label, 0) + value
    return counted


@asynccontextmanager
async def service(url: str, answers: int) -> AsyncIterator[Service]:
    """A service that answers so many times."""
    async with running(url, [Say("fine")] * answers) as made_here:
        yield made_here


async def start(http: httpx2.AsyncClient, name: str, **source: object) -> JsonObject:
    """Run a graph of this name."""
    body = {"source": {"kind": "graph", "graph": {**ASK, "name": name}, **source}, "input": {"message": "hi"}}
    answer = await http.post("/v1/executions", json=body)
    assert answer.status_code == 200, answer.text
    told: JsonObject = answer.json()
    return told


async def test_two_own_graphs_and_an_unsaved_template_are_rows_of_their_own(migrated_url: str) -> None:
    async with service(migrated_url, 4) as running_one:
        http = running_one.client
        for name in ("my flow", "my flow", "other flow"):
            told = await start(http, name)
            assert told["metadata"]["workflow_name"] == name  # type: ignore[index,call-overload]  # an object
        unsaved = await start(http, "the graph of mine", template={"key": "mine", "params": {"tone": "kind"}})
        rows = {"my flow": 2, "other flow": 1, "mine": 1}
        for by in ("template", "workflow"):
            found = (await http.get(f"/v1/analytics/cost?group_by={by}")).json()["rows"]
            assert {row["group"][by]: row["executions"] for row in found} == rows
        samples = (await http.get("/metrics")).text
        for name, count in rows.items():
            assert f'{EXECUTED}{{status="completed",template="{name}"}} {count}.0' in samples
            assert f'workflow_name="{name}"' in samples
            for query in ({"template": name}, {"workflow": name}):
                items = (await http.get("/v1/executions", params=query)).json()["items"]
                assert [item["source"]["workflow_name"] for item in items] == [name] * count
        record = (await http.get(f"/v1/executions/{unsaved['execution_id']}")).json()
        assert (record["source"]["kind"], record["source"]["unsaved"]) == ("template", True)
        assert record["params"] == {"tone": "kind"}
        trace = (await http.get(f"/v1/executions/{unsaved['execution_id']}/trace")).json()["spans"]
        assert [span["name"] for span in trace][:2] == ["invoke_workflow mine", "execute_node start"]
        assert "execute_node ask" in [span["name"] for span in trace]


MINE: JsonObject = {
    "key": "mine",
    "name": "Mine",
    "description": "Greets.",
    "category": "chat",
    "tags": [],
    "parameters": {"type": "object", "properties": {"greeting": {"type": "string"}}, "additionalProperties": False},
    "defaults": {"greeting": "Hello"},
    "graph": {
        "schema": "spanloom/1",
        "name": "mine",
        "nodes": [
            {"id": "start", "type": "start"},
            {"id": "ask", "type": "model", "config": {"system_message": {"$param": "greeting"}}},
            {"id": "end", "type": "end"},
        ],
        "edges": [{"source": "start", "target": "ask"}, {"source": "ask", "target": "end"}],
    },
    "required_tools": [],
    "required_retrievers": [],
}


def test_a_template_file_runs_as_it_is_under_its_key(shell: Shell) -> None:
    (shell.folder / "mine.json").write_text(json.dumps(MINE))
    (shell.folder / "flow.json").write_text(json.dumps({**ASK, "name": "my flow"}))
    assert shell.run("run", "flow.json", "-m", "hi").returncode == 0
    done = shell.run("run", "mine.json", "--param", "greeting=Good day", "-m", "hi")
    assert done.returncode == 0, done.stderr
    assert "mine (unsaved)" in shell.run("executions").stdout
    assert "mine (template, unsaved)" in shell.run("executions", "show", "last").stdout
    shown = shell.json("executions", "show", "last")
    assert (shown["source"]["workflow_name"], shown["source"]["unsaved"]) == ("mine", True)
    assert shown["params"] == {"greeting": "Good day"}
    assert shown["result"]["metadata"]["unsaved"] is True
    lines = shell.run("cost").stdout.splitlines()
    assert {"my flow", "mine"} <= {line.split("  ")[0] for line in lines}
    assert not any(line.startswith("–") for line in lines)


@pytest.mark.parametrize(
    ("params", "said"),
    [(["--param", "greting=x"], "did you mean 'greeting'"), (["--param", "greeting"], "NAME=VALUE")],
)
def test_wrong_parameters_of_a_template_file_start_nothing(shell: Shell, params: list[str], said: str) -> None:
    (shell.folder / "mine.json").write_text(json.dumps(MINE))
    done = shell.run("run", "mine.json", *params, "-m", "hi")
    assert done.returncode != 0
    assert said in done.stderr
    assert "There is no database" in shell.run("executions").stderr


def test_a_broken_template_file_says_what_is_wrong(shell: Shell) -> None:
    broken = {**MINE, "graph": {**MINE["graph"], "edges": []}}  # type: ignore[dict-item]  # an object
    (shell.folder / "mine.json").write_text(json.dumps(broken))
    done = shell.run("run", "mine.json", "-m", "hi")
    assert done.returncode != 0
    assert "not a valid template" in done.stderr


HOSTILE = {
    "  spaces \n and\tlines ": "spaces and lines",
    "\x1b[31mred\x1b[0m": "\\x1b[31mred\\x1b[0m",
    "right\u202eot left": "right\\u202eot left",
    "zero\u200bwidth": "zero\\u200bwidth",
    "x" * 255: "x" * MAX_NAME_CHARACTERS,
    " \n ": "custom",
}


@pytest.mark.parametrize("given", HOSTILE, ids=range(len(HOSTILE)))
async def test_a_hostile_name_is_one_harmless_line_everywhere(given: str) -> None:
    document = graph([{"id": "ask", "type": "model"}], ["start -> ask", "ask -> end"])
    run = await Harness([Say("fine")]).run({**document, "name": given})
    assert run.result.metadata.workflow_name == workflow_name(given) == HOSTILE[given]
    assert f"invoke_workflow {HOSTILE[given]}" in [span.name for span in run.spans]


def test_a_secret_in_a_name_is_redacted() -> None:
    assert "sk-abcdefghijklmnopqrstuvwx" not in workflow_name("flow sk-abcdefghijklmnopqrstuvwx of mine")


async def test_a_name_of_a_stored_template_does_not_spoil_its_figures(database: Database) -> None:
    await register(database)
    listener = Listener()
    ran(listener, "answer", "template", template_id="t-1", template_version=1)
    for name, source in (("answer", "graph"), ("answer", "graph"), ("answer", "template"), (OTHER, "graph")):
        ran(listener, name, source)
    await book(listener, database)
    counts = {"answer": 1, "answer (graph)": 2, "answer (unsaved)": 1, f"{OTHER} (graph)": 1}
    rows = (await report(database, "template")).rows
    assert {row.group[0]: row.sums.executions for row in rows} == counts
    assert executions_by_label(await scrape(made(database))) == counts


async def test_each_label_of_the_counters_lists_the_executions_that_it_counts(database: Database) -> None:
    await register(database)
    listener = Listener()
    for name in ("answer", "answer (graph)", "my flow", "chat", "gone"):
        ran(listener, name)
        ran(listener, name, "template")
        ran(listener, name, "definition")
    ran(listener, "chat", "chat", template_id="t-1")
    ran(listener, "chat", "chat")
    ran(listener, "gone", "template", template_id="t-9", template_version=1)
    await book(listener, database)
    counted = executions_by_label(await scrape(made(database)))
    assert sum(counted.values()) == 18
    async with database.read() as connection:
        for label, count in counted.items():
            page = await list_executions(connection, ExecutionFilter(template=label), limit=200)
            assert len(page.items) == count, label
            total = (await cost(connection, CostFilter(template=label))).total
            assert total.executions == count, label
            of_records = (await cost(connection, CostFilter(template=label), ["outcome"])).total
            assert of_records == total, label


async def test_a_flood_of_names_leaves_stored_workflows_their_labels(database: Database) -> None:
    flood = Listener()
    for number in range(MAX_LABEL_VALUES + 60):
        ran(flood, f"aaa {number:04}")
    await book(flood, database)
    metrics = made(database)
    await register(database, "t-1", "answer")
    await register(database, "t-2", "zebra")
    metrics.feed(Batch.of(flood.signals()))
    late = Listener()
    ran(late, "answer", "template", template_id="t-1", template_version=1)
    ran(late, "slug", "definition")
    await book(late, database)
    metrics.feed(Batch.of(late.signals()))
    samples = await scrape(metrics)
    exact = executions_by_label(samples)
    assert len(exact.keys() - {OTHER}) <= MAX_LABEL_VALUES
    assert {"answer", "zebra", OTHER} <= exact.keys()
    assert sum(exact.values()) == MAX_LABEL_VALUES + 60 + 2
    spans = {
        found[1]
        for name in samples
        if name.startswith("traces_span_metrics_calls_total")
        and (found := re.search(r"\('workflow_name', '(.*?)'\)", name))
    }
    assert {"answer", "slug", OTHER} <= spans
    assert len(spans) <= MAX_LABEL_VALUES + 1


async def test_a_new_name_does_not_push_an_older_one_out_of_the_counters(database: Database) -> None:
    listener = Listener()
    for number in range(MAX_LABEL_VALUES):
        ran(listener, f"old {number}", execution_id=f"01900000-0000-7000-8000-{number:012x}")
    await book(listener, database)
    before = executions_by_label(await scrape(made(database)))
    newer = Listener()
    ran(newer, "a name that sorts before all others")
    await book(newer, database)
    assert executions_by_label(await scrape(made(database))) == {**before, OTHER: 1}


async def test_a_flood_of_names_is_one_row_of_the_report(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_module, "MAX_GROUPS", 10)
    listener = Listener()
    for number in range(30):
        ran(listener, f"flow {number}", tags={"ticket": f"T-{number}"})
    await book(listener, database)
    for by in ("template", "workflow", "tag:ticket"):
        found = await report(database, by)
        assert len(found.rows) == 10
        (rest,) = [row.sums.executions for row in found.rows if row.group == (OTHER,)]
        assert rest == 21
        assert found.total.executions == 30
        assert sum((row.sums for row in found.rows), Sums()) == found.total


async def test_a_flood_of_tags_makes_no_roll_ups(database: Database) -> None:
    listener = Listener()
    for number in range(50):
        ran(listener, "flow", tags={f"key {number}": f"value {number}", "run": str(number)})
    await book(listener, database)
    async with database.read() as connection:
        rows = (await connection.execute(select(func.count()).select_from(execution_rollups))).scalar_one()
    assert rows == 2, "one for the executions, one for their calls"


TAGS: Mapping[str, str] = {"team": "a", 'quo"te': "q", "dol$lar.x[0]": "d", "'; DROP TABLE x --": "s", "ü\u202e": "u"}


async def test_every_key_of_a_tag_can_be_grouped_by(database: Database) -> None:
    listener = Listener()
    ran(listener, "one", tags=TAGS)
    ran(listener, "two", tags={})
    await book(listener, database)
    for key, value in TAGS.items():
        rows = (await report(database, f"tag:{key}")).rows
        assert {row.group: row.sums.executions for row in rows} == {(value,): 1, (None,): 1}, key
    both = (await report(database, "tag:team", "workflow", "model")).rows
    assert {row.group: row.sums.model_calls for row in both}["a", "one", "small"] == 1


async def test_groups_of_records_add_up_to_those_of_roll_ups(database: Database) -> None:
    listener = Listener()
    for number, team in enumerate(("a", "a", "b")):
        story = listener.begin(workflow_name="flow", source="graph", template_id=None, tags={"team": team})
        story.answer()
        story.answer(None, model="large")
        story.answer(wasted=True)
        story.tracker.fail("timeout", "late") if number else story.tracker.complete()
    await book(listener, database)
    total = (await report(database)).total
    for group_by in (("outcome",), ("error_type",), ("tag:team",), ("node",), ("node", "model"), ("tag:team", "day")):
        assert (await report(database, *group_by)).total == total, group_by
    for dimension in OF_ROLLUPS:
        both = {row.group[:1]: row.sums for row in (await report(database, dimension, "outcome", source="graph")).rows}
        assert {group for (group,) in both} == {row.group[0] for row in (await report(database, dimension)).rows}
    by_node = {row.group[0]: row.sums for row in (await report(database, "node")).rows}
    assert {node: sums.priced_nano_usd for node, sums in by_node.items()} == {
        None: 0,
        "n1": 3 * PRICE,
        "n2": 0,
        "n3": 3 * PRICE,
    }
    outcomes = {row.group[0]: row.sums.executions for row in (await report(database, "outcome")).rows}
    assert outcomes == {"completed": 1, "failed": 2}
    errors = {row.group[0]: row.sums.executions for row in (await report(database, "error_type")).rows}
    assert errors == {None: 1, "timeout": 2}


async def test_the_api_groups_by_tags_and_refuses_what_is_none(migrated_url: str) -> None:
    async with service(migrated_url, 1) as running_one:
        http = running_one.client
        body = {"source": {"kind": "graph", "graph": ASK}, "input": {"message": "hi"}, "tags": {"team": "red"}}
        assert (await http.post("/v1/executions", json=body)).status_code == 200
        rows = (await http.get("/v1/analytics/cost?group_by=tag:team&group_by=outcome")).json()["rows"]
        assert [row["group"] for row in rows] == [{"tag:team": "red", "outcome": "completed"}]
        for wrong in ("tag:", "tags", "tag:" + "x" * 65, "Tag:team"):
            refused = await http.get("/v1/analytics/cost", params={"group_by": wrong})
            assert refused.status_code == 422, wrong


def test_the_command_line_groups_by_tag_node_error_and_outcome(shell: Shell) -> None:
    assert shell.ask().returncode == 0
    for by, value in {"outcome": "completed", "node": "answer", "tag:team": "–", "error_type": "–"}.items():
        lines = shell.run("cost", "--by", by).stdout.splitlines()
        assert any(line.startswith(value) for line in lines), (by, lines)
    assert "tag:KEY" in shell.run("cost", "--by", "tags").stderr


def test_builtin_templates_keep_their_keys(shell: Shell) -> None:
    assert shell.run("run", "universal_chat", "-m", "hi").returncode == 0
    lines = shell.run("cost").stdout
    assert any(template.key in lines for template in load_builtin())
