"""The one entrance: what the report says and where it points, the normal form, the cache; nothing makes it raise."""

import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example
from hypothesis import given as given_any
from hypothesis import strategies as st

from engine.documents.strict_json import read_json
from engine.graph import Json, JsonObject, content_hash, read_canonical
from engine.report import Issue, Layer
from engine.validation import paths, routing
from engine.validation.checked_graph import CheckedGraph
from engine.validation.rules import Finding
from engine.validation.validator import WorkflowValidator
from tests.engine.validation.graphs import (
    RESOURCES,
    codes,
    condition,
    document,
    edges,
    model,
    node,
    report,
    resources,
    validate,
)

CHAT = "start>ask ask>end"


def issue(given: Json, code: str) -> Issue:
    """The only issue of a code."""
    found = [each for each in report(given).issues if each.code == code]
    assert len(found) == 1, found
    return found[0]


def at(given: Json, pointer: str) -> object:
    """What stands at a pointer. Raises if nothing does."""
    value: Any = given
    for step in pointer.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def test_a_valid_graph_has_a_hash_and_runs_through_all_layers() -> None:
    found = validate(document(CHAT, {"ask": node("model", stream=True)}))
    assert found.report.valid
    assert found.canonical is not None
    assert found.content_hash == content_hash(found.canonical)
    assert found.report.layers == [Layer.SCHEMA, Layer.STRUCTURE, Layer.SECURITY, Layer.CAPABILITY]
    assert found.report.summary() == "no errors"


def test_a_schema_error_stops_before_the_structure() -> None:
    found = validate(document("start>a", name=1))
    assert found.report.layers == [Layer.SCHEMA]
    assert (found.graph, found.canonical, found.content_hash) == (None, None, None)


def test_a_structure_error_stops_before_security_but_keeps_the_hash() -> None:
    found = validate(document("start>end start>a", nodes={"use": ("tools", {"allowed_tools": ["*"]})}))
    assert found.report.layers == [Layer.SCHEMA, Layer.STRUCTURE]
    assert found.content_hash is not None


def test_capability_runs_after_a_security_error() -> None:
    found = codes(document(CHAT, {"ask": model(model="x", prompt="Bearer abcdef0123456789")}))
    assert {"security.secret_value", "capability.unknown_model"} <= found


def test_without_a_start_nothing_is_called_unreachable() -> None:
    assert codes({"schema": "spanloom/1", "name": "n", "nodes": [{"id": "end", "type": "end"}]}) == {
        "structure.start_count",
        "structure.nothing_streams",
    }


def test_all_errors_of_a_layer_are_reported_at_once() -> None:
    found = codes(document(CHAT, {"ask": model(temperature=9, prompt="{{")}, name="", metdata={}))
    assert {"schema.out_of_range", "schema.missing_field", "schema.unknown_field"} <= found


def test_issues_stand_by_severity_layer_and_place() -> None:
    given = document(" ".join(f"start>n{number} n{number}>end" for number in range(33)) + " start>end")
    found = [(each.severity.value, each.pointer) for each in report(given).issues]
    assert found == [("error", "/nodes/0"), ("warning", "/edges/66"), ("info", "/nodes")]


def test_at_most_100_issues_are_listed_and_all_are_counted() -> None:
    found = report(document(nodes={f"n{number}": "end" for number in range(150)}))
    assert (len(found.issues), found.counts.error, found.truncated) == (100, 150, True)
    assert found.summary().startswith("150 errors: structure.unreachable at /nodes/2: ")


@pytest.mark.parametrize(
    ("given", "code", "pointer", "hint"),
    [
        (document(CHAT, {"ask": model(maxtoken=5)}), "schema.unknown_field", "/nodes/2/config/maxtoken", "max_tokens"),
        (document(nodes={"x": "modle"}), "schema.unknown_node_type", "/nodes/2/type", "`model`"),
        (document(nodes={"x": {}}), "schema.missing_field", "/nodes/2", "Add"),
        (document(limits={"max_tool_calls": 501}), "schema.out_of_range", "/limits/max_tool_calls", "range"),
        (document(nodes={"x": node("model", on_error={"policy": "continue", "output": {}, "lable": "a"})}),
         "schema.unknown_field", "/nodes/2/on_error/lable", "`label`"),
        (document("start>c c>end:true c>x:false x>end",
                  {"c": condition("has(outputs.revieww)"), "review": "end"}, edges=edges(
                      "start>c c>end:true c>x:false x>end c>review:error")),
         "structure.unknown_name", "/nodes/2/config/condition", "`outputs.review`"),
        (document("start>end", edges=[{"source": "start", "target": "end", "label": "a"}]), "schema.unknown_field",
         "/edges/0/label", "Remove"),
        (document("start>end", edges=edges("start>ende")), "structure.unknown_node", "/edges/0/target", "`end`"),
        (document("start>ask ask>end:finale", {"ask": "model"}), "structure.unknown_label", "/edges/1/when", "`final`"),
        (document("start>a a>end?messagecount>1 a>x x>end"), "structure.bad_expression", "/edges/1/condition", "CEL"),
        (document(nodes={"x": ("conditional", {"cases": [{"label": "a", "condition": "1 +"}]})}),
         "structure.bad_expression", "/nodes/2/config/cases/0/condition", "CEL"),
    ],
)  # fmt: skip
def test_an_issue_points_at_its_place_and_names_the_nearest(given: Json, code: str, pointer: str, hint: str) -> None:
    found = issue(given, code)
    assert found.pointer == pointer
    assert hint in found.hint
    at(given, pointer)


def test_an_issue_names_its_node_or_edge_also_where_the_shape_is_wrong() -> None:
    assert issue(document(CHAT, {"ask": model(temperature=9)}), "schema.out_of_range").node_id == "ask"
    assert issue(document(edges=[{"source": "start", "target": 1}]), "schema.wrong_type").edge_id == "e0"
    assert issue(document(nodes={"no id": "end"}), "schema.bad_id").node_id is None
    assert (
        issue(document(CHAT, {"ask": model(prompt="Bearer abc0123456789")}), "security.secret_value").node_id == "ask"
    )


def test_a_model_without_a_price_is_an_error_under_a_budget_and_else_a_warning() -> None:
    unpriced = resources(prices=False)
    for budget, severity in ((None, "warning"), (10**9, "error")):
        given = document(CHAT, {"ask": "model"}, limits={"budget_nano_usd": budget})
        found = [each.severity for each in report(given, unpriced).issues if each.code == "capability.unpriced_model"]
        assert found == [severity]


def test_no_message_quotes_a_value() -> None:
    shape = "sk-proj-a1b2c3d4e5f6g7h8"
    plus: dict[str, Json] = {"source": "a", "target": "end", "condition": f"'{shape}' +"}
    documents = [
        document(name=[shape]),
        document(CHAT, {"ask": model(temperature=shape, prompt="{{ " + shape)}, description=shape * 200),
        document(CHAT, {"ask": model(prompt=shape, response_schema={"type": shape})}),
        document("start>a", edges=[*edges("start>a a>end"), plus]),
        document(nodes={"x": node(shape)}, durability=shape),
        document("start>r r>end", {"r": ("retrieval", {"options": {"path": [shape]}})}),
        document(metadata={"key": shape}),
    ]
    for each in documents:
        found = report(each)
        assert not found.valid
        assert shape not in found.model_dump_json()


def test_every_default_is_written_into_the_graph_that_runs() -> None:
    graph = validate(document(CHAT, {"ask": node("model", retry={"max_attempts": 5})})).graph
    assert graph is not None
    ask, edge = graph.nodes[2], graph.edges[1]
    assert (ask.name, ask.timeout_seconds, edge.id) == ("ask", 120, "e1")
    assert ask.config["include_history"] is True
    assert ask.retry is not None
    assert ask.retry.max_attempts == 5
    assert "empty_response" in (ask.retry.retry_on or [])
    assert (graph.durability, graph.on_lost, graph.model_defaults.max_tokens) == ("none", "fail", 1024)


def test_the_default_on_lost_under_step_is_resume() -> None:
    graph = validate(document(durability="step")).graph
    assert graph is not None
    assert graph.on_lost == "resume"


def test_metadata_and_spelling_do_not_change_the_hash() -> None:
    one = validate(document(CHAT, {"ask": model(temperature=1.0)}, metadata={"x": 1}))
    other = validate(document(CHAT, {"ask": node("model", {"temperature": 1}, name="ask")}))
    assert one.content_hash == other.content_hash


def test_only_a_graph_that_books_at_its_end_says_so_in_its_canonical_form() -> None:
    limits: list[JsonObject] = [{}, {"spend": "each_call"}, {"spend": "at_end"}]
    usual, chosen, rare = (validate(document(limits=each)) for each in limits)
    assert usual.content_hash == chosen.content_hash != rare.content_hash
    assert usual.canonical is not None
    assert rare.canonical is not None
    assert (b"spend" in usual.canonical, read_canonical(usual.canonical).limits.spend) == (False, "each_call")
    assert read_canonical(rare.canonical).limits.spend == "at_end"


def test_the_same_document_is_read_once_and_its_surroundings_every_time() -> None:
    given = document(CHAT, {"ask": "model"})
    validator = WorkflowValidator()
    first = validator.validate(given, owner="local", resources=RESOURCES)
    second = validator.validate(given, owner="local", resources=resources(models=False))
    assert second.graph is first.graph
    assert not second.report.valid


def test_a_document_changed_in_place_is_another_document() -> None:
    given = document()
    assert validate(given).report.valid
    given["name"] = 1
    assert not validate(given).report.valid


def test_values_that_serialise_alike_are_not_mistaken_for_each_other() -> None:
    assert validate(document(variables={"v": None})).report.valid
    assert codes(document(variables={"v": float("nan")})) == {"schema.not_json"}
    assert codes(document(variables={"v": (1,)})) == {"schema.not_json"}  # type: ignore[dict-item]


def test_a_rule_that_raises_refuses_the_document_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(checked: CheckedGraph) -> Iterator[Finding]:
        raise ZeroDivisionError("a secret")

    monkeypatch.setitem(routing.CHECKS, "structure.no_end", broken)
    found = WorkflowValidator().validate(document("start>end a>end"), owner="local", resources=RESOURCES).report
    by_code = {each.code: each for each in found.issues}
    assert by_code["internal.rule_failed"].data == {"code": "structure.no_end"}
    assert "secret" not in by_code["internal.rule_failed"].message
    assert "structure.unreachable" in by_code


def test_every_check_stands_under_a_code_it_gives() -> None:
    assert {code.partition(".")[0] for code in routing.CHECKS | paths.CHECKS} == {"structure"}


def test_a_join_has_the_outputs_of_all_branches() -> None:
    reads = "{{ outputs.a.text }}{{ outputs.b.text }}{{ outputs.c.text }}{{ outputs.d.text }}"
    asks = dict.fromkeys("abcd", model(append_to_messages=False))
    drawing = "start>a start>b a>c a>d c>i d>i i>join b>join join>end"
    found = document(drawing, {**asks, "join": model(prompt=reads)})
    assert "structure.maybe_missing" not in codes(found)


def test_a_branch_does_not_have_the_outputs_of_its_neighbour() -> None:
    given = document("start>a start>b a>end b>end", {"a": "model", "b": model(prompt="{{ outputs.a.text }}")})
    assert "structure.maybe_missing" in codes(given)


def test_a_node_a_branch_may_skip_may_be_missing_at_the_join() -> None:
    drawing = "start>a start>b a>x?message_count>1 a>end x>end b>end"
    given = document(drawing, {"x": "model", "end": ("end", {"response": "{{ outputs.x.text }}"})})
    assert "structure.maybe_missing" in codes(given)


def test_a_loops_body_has_the_output_of_the_node_before_the_loop_but_not_of_its_own_end() -> None:
    drawing = "start>before before>again again>work:continue again>end:exit work>last last>again"
    body = model(prompt="{{ outputs.before.text }}")
    assert "structure.maybe_missing" not in codes(document(drawing, {"before": "model", "again": "loop", "work": body}))
    early = model(prompt="{{ outputs.last.text }}")
    assert "structure.maybe_missing" in codes(document(drawing, {"last": "model", "again": "loop", "work": early}))


NAMES = ["start", "end", "a", "b", "c"]
TYPES: dict[str, list[Any]] = {
    "start": [{}],
    "end": [{}, {"response": "{{ outputs.a.text }}"}, {"fail": {"error_type": "x", "message": "{{ errors }}"}}],
    "model": [{}, {"include_history": False}, {"system_message": "{{ input.x }}", "temperature": 1.0}],
    "tools": [{}, {"allowed_tools": ["sum", "*", "none"]}],
    "memory": [{}, {"strategy": "truncate"}],
    "retrieval": [{}, {"retriever": "attic"}, {"filter": {"a": ["{{ variables.v }}"]}}],
    "conditional": [{"condition": "has(outputs.b)"}, {"cases": [{"label": "x", "condition": "true"}], "default": "y"}],
    "loop": [{}, {"condition": "loops.a.total < 2"}],
    "variable": [{"variable_name": "v", "value": "{{ outputs.c }}"}, {"variable_name": "v", "operation": "get"}],
    "approval": [{}],
}
NODES = st.fixed_dictionaries(
    {"id": st.sampled_from(NAMES)},
    optional={
        "on_error": st.sampled_from(
            [{"policy": "route"}, {"policy": "continue", "label": "x"}, {"policy": "fail"}, {}]
        ),
        "stream": st.booleans(),
        "timeout_seconds": st.sampled_from([1, 2.5, 0, None, 4_000]),
        "retry": st.sampled_from([None, {"max_attempts": 2}, {}]),
        "metadata": st.sampled_from([{}, {"x": 1.0}, None]),
    },
).flatmap(
    lambda base: st.sampled_from(sorted(TYPES)).flatmap(
        lambda kind: st.sampled_from(TYPES[kind]).map(lambda config: {**base, "type": kind, "config": config})
    )
)
EDGES = st.fixed_dictionaries(
    {"source": st.sampled_from(NAMES), "target": st.sampled_from(NAMES)},
    optional={
        "when": st.sampled_from(["final", "tool_calls", "error", "continue", "exit", "x", "true", "false"]),
        "condition": st.sampled_from(["true", "message_count > 1", "outputs.a.text == 'x'", "1 +", ""]),
        "id": st.sampled_from(["one", "e1", None]),
    },
)
TOP: dict[str, st.SearchStrategy[Any]] = {
    "schema": st.just("spanloom/1"),
    "name": st.just("random"),
    "nodes": st.lists(NODES, max_size=7, unique_by=lambda each: str(each["id"])),
    "edges": st.lists(EDGES, max_size=14),
}
GRAPHS = st.fixed_dictionaries(
    TOP,
    optional={
        "durability": st.sampled_from(["none", "exit", "step", "later", None]),
        "on_lost": st.sampled_from(["fail", "resume", None]),
        "variables": st.sampled_from([{}, {"v": 2.0}, {"v": 1e300}, []]),
        "limits": st.sampled_from([{}, {"budget_nano_usd": 5}, {"run_seconds": 5}, {"run_seconds": -0.0}]),
    },
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["schema", "name", "nodes", "edges", "id", "type", "config", "on_error", "policy", "limits"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given_any(GRAPHS)
def test_no_graph_makes_the_validator_raise_or_a_rule_fail(given_graph: JsonObject) -> None:
    found = report(given_graph)
    assert all(each.code != "internal.rule_failed" for each in found.issues)
    for each in found.issues:
        at(given_graph, each.pointer)


@example({"nodes": [{"id": []}]})
@given_any(ANYTHING)
def test_no_document_makes_the_validator_raise_or_a_rule_fail(anything: Json) -> None:
    assert all(each.code != "internal.rule_failed" for each in report(anything).issues)


@given_any(GRAPHS)
def test_the_canonical_form_of_a_graph_is_its_own_canonical_form(given_graph: JsonObject) -> None:
    once = validate(given_graph)
    if once.canonical is None:
        return
    again = validate(read_json(once.canonical))
    assert again.canonical == once.canonical
    assert again.graph == once.graph == read_canonical(once.canonical)
    assert [each.code for each in again.report.issues] == [each.code for each in once.report.issues]


@pytest.mark.slow
def test_the_largest_graph_takes_a_fraction_of_a_second() -> None:
    given = _largest()
    WorkflowValidator().validate(document(CHAT, {"ask": "model"}), owner="local", resources=RESOURCES)
    taken = list[float]()
    for _ in range(3):
        began = time.process_time()
        found = WorkflowValidator().validate(given, owner="local", resources=RESOURCES)
        taken.append(time.process_time() - began)
        assert found.report.layers[-1] is Layer.CAPABILITY, found.report.summary()
    assert min(taken) < 0.5, "the best of three, as what other tests have left in memory is collected meanwhile"


def _largest() -> JsonObject:
    """200 nodes, 1,000 edges, 32 KiB of expressions, close to 1 MiB."""
    names = [f"n{number}" for number in range(198)]
    text = "outputs.{0}.value == {1} || (message_count > {1} && input.message.startsWith('{2}'))"
    conditions = [
        text.format(name, index, "x" * 40) if index < 185 else f"{index}<message_count"
        for index, name in enumerate([*names, *names, *names, *names])
    ]
    skips: list[Json] = [
        {"source": names[index % 198], "target": names[(index * 7 + 1) % 198], "condition": condition_text}
        for index, condition_text in enumerate(conditions)
    ]
    nodes: dict[str, Any] = {name: ("variable", {"variable_name": name, "value": "text " * 900}) for name in names}
    chain = " ".join(f"{one}>{other}" for one, other in pairwise(["start", *names, "end"]))
    return document(chain, nodes, edges=[*edges(chain), *skips])
