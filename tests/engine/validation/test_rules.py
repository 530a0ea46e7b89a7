"""For every code a graph that gives it and one that just does not."""

from dataclasses import dataclass
from typing import Any

import pytest

from engine.graph import Json
from engine.resources import Resources
from engine.validation.rules import RULES
from tests.engine.validation.graphs import RESOURCES, codes, condition, document, edges, model, node, report, resources

CHAT = "start>ask ask>end"
FORK = "start>a start>b a>join b>join join>end"
LOOP = "start>again again>work:continue again>end:exit work>again"
TOOLS = "start>ask ask>use:tool_calls ask>end:final use>ask"
USE = ("tools", {"allowed_tools": ["sum"]})
DEEP: Any = {}
for _ in range(30):
    DEEP = {"deeper": DEEP}


@dataclass(frozen=True)
class Case:
    """A document that gives the code and one that just does not; `on` and `not_on`: where they are validated."""

    bad: Json
    good: Json
    on: Resources = RESOURCES
    not_on: Resources = RESOURCES


def chat(**config: Json) -> Json:
    return document(CHAT, {"ask": model(**config)})


def variable(**config: Json) -> Json:
    return document("start>v v>end", {"v": ("variable", {"variable_name": "v", **config})})


def delay(seconds: float, **config: Json) -> tuple[str, dict[str, Json]]:
    return "delay", {"duration_seconds": seconds, **config}


ASK: tuple[str, dict[str, Json]] = ("approval", {"prompt": "Shall it go on?"})


def approval(top: dict[str, Json] | None = None, **config: Json) -> Json:
    """An approval all of whose choices lead to the end."""
    labels = config.get("choices", ["approved", "rejected"])
    assert isinstance(labels, list)
    drawn = " ".join(f"a>end:{label}" for label in labels)
    return document(f"start>a {drawn}", {"a": ("approval", {"prompt": "Go on?", **config})}, **(top or {}))


def choose(*, drawing: str = "start>c c>end:one c>end:two", **config: Json) -> Json:
    return document(drawing, {"c": ("conditional", config)})


def chain(length: int) -> Json:
    """As many nodes in a row, start and end among them."""
    inner = " ".join(f"n{index}>n{index + 1}" for index in range(length - 3))
    return document(f"start>n0 {inner} n{length - 3}>end")


def long_conditions(count: int) -> list[Json]:
    """Edges with conditions of about 915 characters."""
    texts = [f"message_count > {number}" + " " * 897 for number in range(count)]
    return [{"source": "a", "target": "end", "condition": text} for text in texts]


def of(label: str, text: str = "message_count > 1") -> Json:
    return {"label": label, "condition": text}


def with_condition(text: str) -> Json:
    return document("start>c c>end:true c>x:false x>end", {"c": condition(text)})


REFERRING: dict[str, Json] = {"$ref": "#/$defs/input", "$defs": {"input": {"type": "object"}}}
TOPIC: dict[str, Json] = {
    "type": "object",
    "properties": {"subject": {"type": "object", "properties": {"name": {"type": "string"}}}},
}


def reading(path: str, schema: dict[str, Json]) -> Json:
    """A chat that reads a path of an input with this schema."""
    return document(CHAT, {"ask": model(prompt=f"{{{{ input.{path} }}}}")}, input_schema=schema)


CASES: dict[str, list[Case]] = {
    "schema.not_json": [
        Case([], document()),
        Case(document(variables={"v": 2**53}), document(variables={"v": 2**53 - 1})),
        Case(document(variables={"v": float("nan")}), document(variables={"v": 1.5})),
        Case(document(description="a\0b"), document(description="ab")),
        Case(document(description="\ud800"), document(description="😀")),
    ],
    "schema.too_deep": [Case(document(variables={"v": {"deeper": DEEP}}), document(variables=DEEP))],
    "schema.too_large": [
        Case(document(metadata={"v": "x" * 16_384}), document(metadata={"v": "x" * 16_300})),
        Case(document(variables={"v": "x" * (1 << 20)}), document(variables={"v": "x" * (1 << 19)})),
        Case(chat(prompt="x" * 32_768), chat(prompt="x" * 32_000)),
        Case(with_condition("true" + " " * 997), with_condition("true" + " " * 996)),
        Case(
            document("start>a", edges=[*edges("start>a a>end"), *long_conditions(36)]),
            document("start>a", edges=[*edges("start>a a>end"), *long_conditions(35)]),
        ),
    ],
    "schema.too_many": [
        Case(
            document(nodes={f"n{index}": "end" for index in range(199)}),
            document(nodes={f"n{index}": "end" for index in range(198)}),
        ),
        Case(
            document(variables={f"v{index}": 1 for index in range(1_001)}),
            document(variables={f"v{index}": 1 for index in range(1_000)}),
        ),
        Case(choose(cases=[of(f"l{n}") for n in range(21)]), choose(cases=[of(f"l{n}") for n in range(20)])),
    ],
    "schema.version": [Case(document(schema="spanloom/2"), document())],
    "schema.missing_field": [
        Case(document(name=""), document(name="n")),
        Case(document(nodes={"x": {"config": {}}}), document()),
        Case(choose(cases=[{"label": "a"}]), choose(cases=[of("one")])),
        Case(document(edges=[{"source": "start"}]), document()),
    ],
    "schema.wrong_type": [
        Case(document(limits={"run_seconds": True}), document(limits={"run_seconds": 1})),
        Case(document(limits={"max_tool_calls": 1.5}), document(limits={"max_tool_calls": 1})),
        Case(document(description=None), document(description="")),
        Case(variable(operation="increment", value="1"), variable(operation="increment", value=1)),
    ],
    "schema.unknown_field": [
        Case(document(nmae="x"), document()),
        Case(chat(max_token=5), chat(max_tokens=5)),
    ],
    "schema.out_of_range": [
        Case(chat(temperature=2.1), chat(temperature=2)),
        Case(document(name="n" * 256), document(name="n" * 255)),
        Case(document(nodes={"x": node("model", on_error={"policy": "hope"})}), document()),
    ],
    "schema.bad_id": [
        Case(document("start>1st 1st>end"), document("start>first first>end")),
        Case(document("start>true true>end"), document("start>yes yes>end")),
        Case(variable(value=1, variable_name="in"), variable(value=1, variable_name="inn")),
    ],
    "schema.duplicate_id": [
        Case(
            document(edges=[{"source": "start", "target": "end", "id": "e1"}, *edges("start>end")]),
            document(edges=[{"source": "start", "target": "end", "id": "e0"}, *edges("start>x")], nodes={"x": "end"}),
        ),
    ],
    "schema.unknown_node_type": [Case(document(nodes={"x": "modle"}), document(nodes={"x": "model"}))],
    "schema.exclusive_fields": [
        Case(document(edges=[{"source": "start", "target": "end", "when": "a", "condition": "true"}]), document()),
        Case(variable(), variable(value=1)),
        Case(variable(value=1, expression="1"), variable(expression="1")),
        Case(choose(), choose(condition="message_count > 1")),
    ],
    "schema.inconsistent": [
        Case(
            document("start>d d>end", {"d": delay(2, max_duration_seconds=1)}),
            document("start>d d>end", {"d": delay(2, max_duration_seconds=2)}),
        ),
        Case(approval(choices=["one", "one"]), approval(choices=["one", "two"])),
        Case(
            document("start>m m>end", {"m": ("memory", {"memory_window": 5, "summarization_threshold": 4})}),
            document("start>m m>end", {"m": ("memory", {"memory_window": 5, "summarization_threshold": 5})}),
        ),
        Case(choose(cases=[of("one"), of("one", "true")]), choose(cases=[of("one"), of("two", "true")])),
        Case(choose(cases=[of("one")], default="one"), choose(cases=[of("one")], default="two")),
        Case(choose(condition="true", default="two"), choose(condition="true")),
        Case(variable(operation="get", value=1), variable(operation="get")),
        Case(variable(operation="increment", expression="1"), variable(operation="increment")),
    ],
    "schema.not_allowed_here": [
        Case(document(nodes={"x": node("end", on_error={"policy": "route"})}), document(nodes={"x": node("end")})),
        Case(document(nodes={"x": node("end", retry={"max_attempts": 2})}), document(nodes={"x": node("end")})),
        Case(document(nodes={"x": node("tools", timeout_seconds=5)}), document(nodes={"x": node("tools")})),
        Case(document(nodes={"x": node("end", stream=True)}), document(nodes={"x": node("end", stream=False)})),
        Case(choose(cases=[of("error")]), choose(cases=[of("errors")])),
        Case(approval(choices=["approved", "error"]), approval(choices=["approved", "wrong"])),
        Case(document("start>d d>end", {"d": node("delay", on_error={"policy": "continue"})}), approval()),
    ],
    "schema.bad_json_schema": [
        Case(document(input_schema={"type": "objekt"}), document(input_schema={"type": "object"})),
        Case(document(input_schema={"$ref": "https://example.com/s"}), document(input_schema=REFERRING)),
        Case(document(input_schema={"$ref": "#"}), document(input_schema=REFERRING)),
        Case(chat(response_schema={"pattern": "(?=a)b"}), chat(response_schema={"pattern": "(a+)+$"})),
        Case(approval(response_schema={"type": "objekt"}), approval(response_schema={"type": "object"})),
    ],
    "schema.bad_prompt": [Case(chat(prompt="{{ input.message | upper }}"), chat(prompt="{{ input.message | json }}"))],
    "structure.start_count": [
        Case(document(nodes={"other": "start"}), document()),
        Case({"schema": "spanloom/1", "name": "n", "nodes": []}, document()),
    ],
    "structure.no_end": [
        Case({"schema": "spanloom/1", "name": "n", "nodes": [{"id": "s", "type": "start"}]}, document())
    ],
    "structure.unknown_node": [
        Case(document("start>end", edges=edges("start>ende")), document()),
        Case(document("start>end", edges=edges("start>end strat>end")), document()),
    ],
    "structure.duplicate_edge": [Case(document("start>end start>end"), document("start>a start>b a>end b>end"))],
    "structure.start_entered": [Case(document("start>a a>start"), document("start>a a>end"))],
    "structure.end_left": [Case(document("start>end end>a a>end"), document("start>a a>end"))],
    "structure.dead_end": [Case(document("start>end start>a"), document("start>end start>a a>end"))],
    "structure.no_way_to_end": [
        Case(document("start>a a>b b>a b>x:error x>end"), document("start>a a>b?true a>end b>a")),
    ],
    "structure.unreachable": [Case(document("start>end a>end"), document("start>a a>end"))],
    "structure.mixed_routing": [
        Case(
            document("start>ask ask>end:final ask>end?true", {"ask": "model"}),
            document("start>ask ask>end:final ask>x x>end", {"ask": "model"}),
        ),
    ],
    "structure.two_defaults": [
        Case(document("start>a a>b a>end a>end?true b>end"), document("start>a a>b a>end?true b>end")),
    ],
    "structure.unknown_label": [
        Case(
            document("start>ask ask>end:finale", {"ask": "model"}),
            document("start>ask ask>end:final", {"ask": "model"}),
        ),
        Case(choose(cases=[of("one"), of("too")]), choose(cases=[of("one"), of("two")])),
    ],
    "structure.duplicate_label": [
        Case(
            document("start>ask ask>end:final ask>x:final x>end", {"ask": "model"}),
            document("start>ask ask>end:final ask>x x>end", {"ask": "model"}),
        ),
    ],
    "structure.uncovered_label": [
        Case(
            document(f"{CHAT[:9]} ask>use:tool_calls use>ask use>end?true", {"ask": "model", "use": USE}),
            document(TOOLS, {"ask": "model", "use": USE}),
        ),
        Case(
            document("start>c c>end:true", {"c": condition("message_count > 1")}),
            document("start>c c>end:true c>x x>end", {"c": condition("message_count > 1")}),
        ),
        Case(document("start>again again>end", {"again": "loop"}), document(LOOP, {"again": "loop"})),
    ],
    "structure.no_default": [
        Case(document("start>a a>end?message_count>1"), document("start>a a>end?message_count>1 a>x x>end")),
        Case(choose(cases=[of("one"), of("two", "true")]), choose(cases=[of("one")], default="two")),
    ],
    "structure.dead_condition": [
        Case(with_condition("1 < 2"), with_condition("message_count < 2")),
        Case(choose(cases=[of("one"), of("two")]), choose(cases=[of("one"), of("two", "message_count > 2")])),
        Case(choose(cases=[of("one", "true"), of("two")]), choose(cases=[of("one"), of("two", "message_count > 2")])),
    ],
    "structure.error_edge": [
        Case(
            document(CHAT, {"ask": node("model", on_error={"policy": "route"})}),
            document(CHAT + " ask>x:error x>end", {"ask": node("model", on_error={"policy": "route"})}),
        ),
        Case(document(CHAT + " ask>x:error x>end", {"ask": "model"}), document(CHAT, {"ask": "model"})),
    ],
    "structure.continue_label": [
        Case(
            document("start>ask ask>end:final", {"ask": node("model", on_error={"policy": "continue"})}),
            document(
                "start>ask ask>end:final", {"ask": node("model", on_error={"policy": "continue", "label": "final"})}
            ),
        ),
    ],
    "structure.handler_unused": [
        Case(
            document("start>h h>x:fallback x>end", {"h": ("error_handler", {"retry_count": 0})}),
            document(
                f"{CHAT} ask>h:error h>ask:retry h>end:fallback",
                {"ask": node("model", on_error={"policy": "route"}), "h": "error_handler"},
            ),
        ),
    ],
    "structure.fork_without_join": [
        Case(document("start>a start>b a>end b>stop", {"stop": "end"}), document("start>a start>b a>end b>end")),
        Case(
            document(
                "start>a start>b a>end a>join?true b>join join>end",
                {"end": "end", "join": "end"},
                edges=edges("start>a start>b a>end a>join?true b>join"),
            ),
            document(FORK),
        ),
    ],
    "structure.branches_overlap": [
        Case(document("start>a start>b start>c a>m b>m m>end c>end"), document("start>a start>b a>m b>n m>end n>end")),
    ],
    "structure.branch_entered": [
        Case(document("start>pick pick>a?true pick>f f>a f>b a>end b>end"), document("start>f f>a f>b a>end b>end")),
        Case(document("start>f f>a f>b a>f?true a>end b>end"), document("start>f f>a f>b a>end?true a>end b>end")),
    ],
    "structure.too_many_branches": [
        Case(
            document(" ".join(f"start>n{n} n{n}>end" for n in range(33))),
            document(" ".join(f"start>n{n} n{n}>end" for n in range(32))),
        ),
    ],
    "structure.empty_branch": [Case(document("start>end start>a a>end"), document("start>a start>b a>end b>end"))],
    "structure.parallel_set": [
        Case(
            document(
                FORK,
                {
                    "a": ("variable", {"variable_name": "v", "value": 1}),
                    "b": ("variable", {"variable_name": "v", "value": 2}),
                },
            ),
            document(FORK),
        ),
        Case(
            document(FORK, {"a": "model", "b": "model"}),
            document(FORK, {"a": "model", "b": model(append_to_messages=False)}),
        ),
        Case(document(FORK, {"a": "memory", "b": "memory"}), document(FORK, {"a": "memory"})),
    ],
    "structure.pause_in_branch": [
        Case(
            document("start>f f>a f>b a>end:approved a>end:rejected b>end", {"a": ASK}),
            document("start>f f>x f>b x>a b>a a>end:approved a>end:rejected", {"a": ASK}),
        ),
        Case(document(FORK, {"a": delay(61)}), document(FORK, {"a": delay(60)})),
        Case(
            document(FORK, {"a": delay(31, delay_type="random")}), document(FORK, {"a": delay(61)}, durability="none")
        ),
        Case(
            document(FORK, {"a": delay(1, delay_type="exponential")}),
            document(FORK, {"a": delay(1, delay_type="exponential", max_duration_seconds=60)}),
        ),
    ],
    "structure.endless_cycle": [
        Case(document("start>a a>b b>a"), document("start>a a>b b>a?message_count>1 b>end")),
    ],
    "structure.cycle_bound": [
        Case(document("start>a a>b b>a?message_count>1 b>end"), document(LOOP, {"again": "loop"})),
        Case(
            document(
                f"{CHAT} ask>x:error x>ask?message_count>1 x>end",
                {"ask": node("model", on_error={"policy": "route"})},
            ),
            document(
                f"{CHAT} ask>h:error h>ask:retry h>end:fallback",
                {"ask": node("model", on_error={"policy": "route"}), "h": "error_handler"},
            ),
        ),
    ],
    "structure.loop_without_body": [
        Case(
            document("start>again again>end:continue again>x:exit x>end", {"again": "loop"}),
            document(LOOP, {"again": "loop"}),
        ),
        Case(
            document("start>p p>again?true p>work again>work:continue again>end:exit work>again", {"again": "loop"}),
            document(LOOP, {"again": "loop"}),
        ),
    ],
    "structure.tools_not_routed": [
        Case(
            document("start>ask ask>end:tool_calls ask>x:final x>end", {"ask": "model"}),
            document(TOOLS, {"ask": "model", "use": USE}),
        ),
        Case(
            document(
                "start>ask ask>next:tool_calls ask>end:final next>use use>end",
                {"ask": "model", "next": "model", "use": USE},
            ),
            document("start>ask ask>x:tool_calls ask>end:final x>use use>ask", {"ask": "model", "use": USE}),
        ),
    ],
    "structure.tools_unused": [
        Case(document("start>use use>end", {"use": USE}), document(TOOLS, {"ask": "model", "use": USE})),
        Case(document(TOOLS, {"ask": "model", "use": "tools"}), document(TOOLS, {"ask": "model", "use": USE})),
        Case(
            document("start>ask ask>use:tool_calls ask>end:final use>end", {"ask": "model", "use": USE}),
            document(TOOLS, {"ask": "model", "use": USE}),
        ),
    ],
    "structure.tool_loop_blind": [
        Case(
            document(TOOLS, {"ask": model(include_history=False), "use": USE}),
            document(CHAT, {"ask": model(include_history=False)}),
        ),
        Case(
            document(TOOLS, {"ask": model(append_to_messages=False), "use": USE}),
            document(TOOLS, {"ask": model(append_to_messages=True), "use": USE}),
        ),
    ],
    "structure.bad_expression": [
        Case(with_condition("message_count >"), with_condition("message_count > 1")),
        Case(with_condition("[1].map(x, x) == []"), with_condition("[1].exists(x, x == 2)")),
    ],
    "structure.expression_type": [Case(with_condition("1 + 1"), with_condition("input.yes"))],
    "structure.unknown_name": [
        Case(with_condition("has(outputs.strat)"), with_condition("has(outputs.start)")),
        Case(
            with_condition("has(loops.start)"),
            document(LOOP, {"again": ("loop", {"condition": "loops.again.total < 3"})}),
        ),
        Case(with_condition("has(results.start)"), with_condition("has(results.c)")),
        Case(chat(prompt="{{ inputs.message }}"), chat(prompt="{{ input.message }}")),
    ],
    "structure.unset_variable": [
        Case(
            chat(prompt="{{ variables.v }}"),
            document(CHAT, {"ask": model(prompt="{{ variables.v }}")}, variables={"v": 1}),
        ),
        Case(variable(operation="get"), variable(operation="set", value=1)),
    ],
    "structure.maybe_missing": [
        Case(
            document("start>p p>a?true p>end a>end", {"end": ("end", {"response": "{{ outputs.a.value }}"})}),
            document(
                "start>p p>a?true p>end a>end", {"end": ("end", {"response": "{{ outputs.a.value | default(0) }}"})}
            ),
        ),
        Case(with_condition("outputs.x.value == 1"), with_condition("has(outputs.x) && outputs.x.value == 1")),
        Case(
            document(
                CHAT + " ask>x:error x>end",
                {"ask": node("model", on_error={"policy": "route"}), "x": model(prompt="{{ outputs.ask.text }}")},
            ),
            document(
                CHAT + " ask>x:error x>end",
                {"ask": node("model", on_error={"policy": "route"}), "x": model(prompt="{{ outputs.start | json }}")},
            ),
        ),
    ],
    "structure.unknown_output_field": [
        Case(
            document("start>ask ask>x x>end", {"ask": "model", "x": model(prompt="{{ outputs.ask.txt }}")}),
            document("start>ask ask>x x>end", {"ask": "model", "x": model(prompt="{{ outputs.ask.text }}")}),
        ),
        Case(
            document(
                "start>ask ask>end?outputs.ask.data.scor>1 ask>x x>end",
                {"ask": model(response_schema={"properties": {"score": {"type": "number"}}})},
            ),
            document(
                "start>ask ask>end?outputs.ask.data.score>1 ask>x x>end",
                {"ask": model(response_schema={"properties": {"score": {"type": "number"}}})},
            ),
        ),
    ],
    "structure.unknown_input_field": [
        Case(chat(prompt="{{ input.mesage }}"), chat(prompt="{{ input.message }}")),
        Case(chat(prompt="{{ input.mesage }}"), chat(prompt="{{ input.topic }}")),
        Case(chat(prompt="{{ input.mesage }}"), chat(prompt="{{ input.mesage | default('') }}")),
        Case(with_condition("input.mesage == 'a'"), with_condition("input.message == 'a'")),
        Case(with_condition("input.mesage == 'a'"), with_condition("has(input.mesage) && input.mesage == 'a'")),
        Case(reading("topic", TOPIC | {"additionalProperties": False}), reading("topic", TOPIC)),
        Case(reading("subjct", TOPIC), reading("subjct", TOPIC | {"additionalProperties": True})),
        Case(reading("subjct", TOPIC), reading("subjct", TOPIC | {"additionalProperties": {"type": "string"}})),
        Case(reading("subjct", TOPIC), reading("subjct", TOPIC | {"anyOf": [{}]})),
        Case(reading("subject.nmae", TOPIC), reading("subject.name", TOPIC)),
    ],
    "structure.durability": [
        Case(document(on_lost="resume"), document(on_lost="resume", durability="step")),
        Case(approval(top={"durability": "none"}), approval(top={"durability": "exit"})),
        Case(
            document(durability="step", limits={"spend": "at_end"}),
            document(durability="none", limits={"spend": "at_end"}),
        ),
        Case(approval(top={"limits": {"spend": "at_end"}}), approval(top={"limits": {"spend": "each_call"}})),
    ],
    "structure.nothing_streams": [Case(chat(), document(CHAT, {"ask": node("model", stream=True)}))],
    "structure.large": [Case(chain(161), chain(160))],
    "security.secret_value": [
        Case(
            document(metadata={"note": "sk-proj-a1b2c3d4e5f6g7h8"}), document(metadata={"note": "sk-learn-with-trees"})
        ),
        Case(
            document(variables={"api_key": "Zx81kQv7TbW2mN5pR9sL4dYc"}),
            document(variables={"api_key": "ask the owner"}),
        ),
        Case(document(description="postgres://user:word@host/db"), document(description="postgres://user@host/db")),
        Case(chat(prompt="Bearer abcdef0123456789"), chat(prompt="Bearer of a password token")),
        Case(document(description="-----BEGIN PRIVATE KEY-----abc"), document(description="-----BEGIN-----")),
    ],
    "security.secret_in_prompt": [
        Case(chat(prompt="Use secret://key"), chat(prompt="Use secret:key")),
        Case(document(variables={"v": ["secret://key"]}), document(variables={"v": ["a secret"]})),
    ],
    "security.all_tools": [
        Case(
            document(TOOLS, {"ask": "model", "use": ("tools", {"allowed_tools": ["*"]})}),
            document(TOOLS, {"ask": "model", "use": USE}),
        ),
    ],
    "security.untrusted_in_system": [
        Case(chat(system_message="Help {{ input.name }}"), chat(prompt="Help {{ input.name }}")),
        Case(
            document("start>ask ask>b b>end", {"ask": "model", "b": model(system_message="{{ outputs.ask.text }}")}),
            document("start>a a>b b>end", {"b": model(system_message="{{ outputs.a.value }}")}),
        ),
        Case(
            document("start>m m>end", {"m": ("memory", {"summary_prompt": "Summarise for {{ input.name }}"})}),
            document("start>m m>end", {"m": ("memory", {"summary_prompt": "Summarise {{ message_count }} messages"})}),
        ),
    ],
    "security.error_text_shown": [
        Case(
            document(nodes={"end": ("end", {"response": "{{ error.message }}"})}),
            document(nodes={"end": ("end", {"response": "{{ error.error_type }}"})}),
        ),
    ],
    "capability.no_model": [Case(chat(), chat(), on=resources(models=False))],
    "capability.unknown_model": [
        Case(chat(provider="scripted", model="scripted-2"), chat(provider="scripted", model="scripted-1")),
        Case(document(CHAT, {"ask": "model"}, model_defaults={"provider": "scripted", "model": "x"}), chat()),
    ],
    "capability.unknown_service_tier": [Case(chat(service_tier="flex"), chat())],
    "capability.unpriced_model": [Case(chat(), chat(), on=resources(prices=False))],
    "capability.unknown_tool": [
        Case(
            document(TOOLS, {"ask": "model", "use": ("tools", {"allowed_tools": ["sums"]})}),
            document(TOOLS, {"ask": "model", "use": USE}),
        ),
    ],
    "capability.unknown_retriever": [
        Case(
            document("start>r r>end", {"r": ("retrieval", {"retriever": "attic"})}),
            document("start>r r>end", {"r": "retrieval"}),
        ),
    ],
    "capability.bad_options": [
        Case(
            document("start>r r>end", {"r": ("retrieval", {"options": {"path": 1}})}),
            document("start>r r>end", {"r": ("retrieval", {"options": {"path": "a"}})}),
        ),
    ],
    "capability.above_cap": [
        Case(
            document(CHAT, {"ask": node("model", timeout_seconds=3_601)}),
            document(CHAT, {"ask": node("model", timeout_seconds=3_600)}),
        ),
    ],
    "capability.no_checkpointer": [
        Case(document(durability="exit"), document(durability="exit"), on=resources(checkpoints=False)),
        Case(
            document(durability="step"),
            document(),
            on=resources(checkpoints=False),
            not_on=resources(checkpoints=False),
        ),
    ],
    "capability.budget_too_small": [
        Case(
            document(CHAT, {"ask": model(max_tokens=100)}, limits={"budget_tokens": 99}),
            document(CHAT, {"ask": model(max_tokens=100)}, limits={"budget_tokens": 100}),
        ),
        Case(
            document(CHAT, {"ask": model(max_tokens=100)}, limits={"budget_nano_usd": 199_999}),
            document(CHAT, {"ask": model(max_tokens=100)}, limits={"budget_nano_usd": 200_000}),
        ),
        Case(
            document("start>m m>end", {"m": "memory"}, limits={"budget_tokens": 511}),
            document("start>m m>end", {"m": "memory"}, limits={"budget_tokens": 512}),
        ),
    ],
}

ELSEWHERE = {"schema.bad_parameter", "schema.unused_parameter", "structure.bypass", "internal.rule_failed"}
"""Rules of templates, and of rules themselves, have tests of their own."""

EVERY = [
    pytest.param(code, case, id=f"{code}-{index}") for code, cases in CASES.items() for index, case in enumerate(cases)
]


@pytest.mark.parametrize(("code", "case"), EVERY)
def test_a_document_gives_the_code(code: str, case: Case) -> None:
    found = report(case.bad, case.on)
    assert code in {issue.code for issue in found.issues}
    assert found.valid == all(issue.severity != "error" for issue in found.issues)


@pytest.mark.parametrize(("code", "case"), EVERY)
def test_a_correct_document_does_not_give_the_code(code: str, case: Case) -> None:
    assert not {code, "internal.rule_failed"} & codes(case.good, case.not_on)


def test_every_rule_has_a_case() -> None:
    assert set(CASES) | ELSEWHERE == set(RULES)
