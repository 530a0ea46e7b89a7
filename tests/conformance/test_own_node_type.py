"""A node type that is registered from outside with one entry is validated, planned, run, priced and documented."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import pytest
from pydantic import Field

from docs.generator.nodes import node_types_page
from engine.graph import Json, JsonObject, Retry
from engine.nodes.base import (
    SHOWN_PROMPT,
    SYSTEM_PROMPT,
    ConfigFault,
    ModelUse,
    NodeBase,
    NodeConfig,
    NodeResult,
    choose_model,
)
from engine.nodes.registry import NODE_TYPES
from engine.report import ValidationReport
from engine.resources import ModelRequest, ModelSettings
from engine.runtime.calls import call_model
from engine.runtime.state import WorkflowState
from engine.testing.models import Say
from engine.tracing import semconv
from engine.validation.validator import WorkflowValidator
from tests.engine.harness import Harness, graph

if TYPE_CHECKING:
    from engine.runtime.visit import Visit


class JuryConfig(NodeConfig):
    """The question of a jury, and its two verdicts."""

    briefing: Annotated[str, SYSTEM_PROMPT] = ""
    """The jury's instructions."""
    verdicts: list[str] = Field(default_factory=lambda: ["guilty", "innocent"], min_length=1)
    reason: Annotated[str | None, SHOWN_PROMPT] = None
    max_tokens: int = 100


class JuryNode(NodeBase[JuryConfig]):
    """Asks a model for a verdict."""

    type = "jury"
    title = "Jury"
    description = "Asks a model for one of the verdicts and routes by it."
    category = "model"
    Config = JuryConfig
    must_route = True
    default_retry = Retry(max_attempts=2)
    bounds_cycle = True
    output_is_untrusted = True
    output_schema = {"type": "object", "properties": {"verdict": {"type": "string"}}}

    @classmethod
    def check(cls, config: JuryConfig) -> Iterator[ConfigFault]:
        if len(set(config.verdicts)) < 2:
            yield ConfigFault("A jury needs two different verdicts.", "/verdicts")

    @classmethod
    def own_labels(cls, config: JuryConfig) -> Mapping[str, str]:
        return {f"/verdicts/{index}": verdict for index, verdict in enumerate(config.verdicts)}

    @classmethod
    def model_use(cls, config: JuryConfig) -> ModelUse:
        return ModelUse(max_tokens=config.max_tokens)

    async def run(self, state: WorkflowState, visit: "Visit") -> NodeResult:
        use = self.model_use(self.config)
        settings = ModelSettings(max_tokens=self.config.max_tokens)
        request = ModelRequest(system=self.config.briefing, messages=state["messages"], settings=settings)
        reply = await call_model(visit, choose_model(visit.context, use), request, stream_as=None)
        return NodeResult(output={"verdict": reply.text}, label=reply.text)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node type's only entry."""
    monkeypatch.setitem(NODE_TYPES, JuryNode.type, JuryNode)


def trial(config: JsonObject | None = None, *, response: Json = "done", **top: Json) -> JsonObject:
    """A jury that sends the case back or closes it."""
    nodes: list[JsonObject] = [
        {"id": "work", "type": "variable", "config": {"variable_name": "rounds", "operation": "increment"}},
        {"id": "jury", "type": "jury", "config": {"verdicts": ["again", "agreed"], **(config or {})}},
        {"id": "end", "type": "end", "config": {"response": response}},
    ]
    edges = ["start -> work", "work -> jury", "jury -again-> work", "jury -agreed-> end"]
    return graph(nodes, edges, **top)


def report(document: JsonObject) -> ValidationReport:
    """The report on what a server with one scripted model has."""
    return WorkflowValidator().validate(document, owner="local", resources=Harness().resources).report


def places(document: JsonObject, code: str) -> list[str]:
    """The places where a rule fires."""
    return [issue.pointer for issue in report(document).issues if issue.code == code]


def test_a_correct_graph_with_it_has_no_error_or_warning() -> None:
    found = report(trial())
    assert found.valid
    assert {issue.code for issue in found.issues} == {"structure.nothing_streams"}


def test_it_is_refused_where_its_own_check_fails() -> None:
    document = trial({"verdicts": ["again", "again"]})
    assert places(document, "schema.inconsistent") == ["/nodes/2/config/verdicts"]
    assert not report(document).valid


def test_a_check_that_names_a_rule_that_does_not_exist_refuses_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JuryNode, "check", lambda config: [ConfigFault("It is unfair.", code="schema.unfair")])
    assert "internal.rule_failed" in {issue.code for issue in report(trial()).issues}


def test_its_config_is_strict_and_a_mistyped_field_is_compared_with_its_own_fields() -> None:
    issue = next(issue for issue in report(trial({"breifing": "Be fair."})).issues if issue.severity == "error")
    assert (issue.code, issue.pointer) == ("schema.unknown_field", "/nodes/2/config/breifing")
    assert "`briefing`" in issue.hint


def test_its_labels_are_those_of_its_config() -> None:
    assert places(trial({"verdicts": ["again", "agreed", "hung"]}), "structure.uncovered_label") == ["/nodes/2"]
    assert places(trial({"verdicts": ["again", "error"]}), "schema.not_allowed_here") == ["/nodes/2/config/verdicts/1"]


def test_its_count_bounds_a_cycle(monkeypatch: pytest.MonkeyPatch) -> None:
    assert places(trial(), "structure.cycle_bound") == []
    monkeypatch.setattr(JuryNode, "bounds_cycle", False)
    assert places(trial(), "structure.cycle_bound") == ["/nodes/1"]


def test_its_prompts_and_its_output_are_known_to_the_security_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    briefed = trial({"briefing": "{{ outputs.jury.verdict | default('') }}"})
    assert places(briefed, "security.untrusted_in_system") == ["/nodes/2/config/briefing"]
    assert places(trial({"reason": "{{ error.message }}"}), "security.error_text_shown") == ["/nodes/2/config/reason"]
    monkeypatch.setattr(JuryNode, "output_is_untrusted", False)
    assert places(briefed, "security.untrusted_in_system") == []


def test_fields_of_its_output_are_known() -> None:
    assert places(trial(response="{{ outputs.jury.verdict }}"), "structure.unknown_output_field") == []
    document = trial(response="{{ outputs.jury.virdict }}")
    assert places(document, "structure.unknown_output_field") == ["/nodes/3/config/response"]


def test_its_model_must_exist_and_fit_the_budget() -> None:
    document = trial(limits={"budget_tokens": 99})
    assert places(document, "capability.budget_too_small") == ["/nodes/2/config"]
    assert places(trial(limits={"budget_tokens": 100}), "capability.budget_too_small") == []
    unknown = trial(model_defaults={"provider": "scripted", "model": "nobody"})
    assert places(unknown, "capability.unknown_model") == ["/nodes/2/config"]


async def test_it_runs_and_its_model_calls_are_priced_and_summed() -> None:
    run = await Harness([Say("again"), Say("agreed")]).run(trial())
    assert (run.result.status, run.result.response) == ("completed", "done")
    assert run.result.model_calls == 2
    assert run.result.usage.total_tokens == 2 * 19
    calls = [span for span in run.spans if span.name == "chat scripted-1"]
    costs = [(span.attributes or {})[semconv.COST_NANO_USD] for span in calls]
    assert run.result.cost_nano_usd == sum(int(str(cost)) for cost in costs) > 0
    assert [span.name for span in run.spans].count("execute_node jury") == 2


def test_the_reference_documents_it() -> None:
    section = node_types_page().partition("## jury\n")[2]
    assert JuryNode.description in section
    assert '| `briefing` | prompt | `""` | The jury\'s instructions. |' in section
    assert "| labels | `guilty` `innocent` |" in section


def test_the_reference_documents_a_type_whose_labels_need_a_required_field(monkeypatch: pytest.MonkeyPatch) -> None:
    class BenchConfig(JuryConfig):
        verdicts: list[str]

    monkeypatch.setattr(JuryNode, "Config", BenchConfig)
    section = node_types_page().partition("## jury\n")[2]
    assert "| `verdicts` | list of string | required |" in section
    assert "| labels | depend on the config |" in section
