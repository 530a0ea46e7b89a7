r"""Prompts: the grammar, one pass, and values that keep their type."""

import json
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import TemplateError
from engine.expressions.prompts import BadPrompt, PromptRead, escape, parse, parse_json
from engine.graph import Json

VIEW: dict[str, Json] = {
    "input": {"message": "hi", "a b": 1, "n": None, "l": [1, {"x": "é"}], "f": 2.0, "yes": True, "it's": "apostrophe"},
    "last_user_message": "hello",
    "error": None,
}

BAD = [
    "{{",
    "{{}}",
    "{{ }}",
    "{{ input.message",
    "{{ input.message }",
    "{{ input. }}",
    "{{ .input }}",
    "{{ input..a }}",
    "{{ input[ }}",
    "{{ input[-1] }}",
    "{{ input[a] }}",
    "{{ input[1.5] }}",
    "{{ input['a] }}",
    "{{ input.message | }}",
    "{{ input.message | upper }}",
    "{{ input.message | jsonx }}",
    "{{ input.message | json() }}",
    "{{ input.message | truncate }}",
    "{{ input.message | truncate(-1) }}",
    "{{ input.message | truncate('a') }}",
    "{{ input.message | default }}",
    "{{ input.message | default(input.a) }}",
    "{{ input.message | default([1]) }}",
    "{{ input.message | default(01) }}",
    r"{{ input.message | default('\x') }}",
    "{{ input.message || json }}",
    "{{ input.message | json | json }}",
    "{{ input.message" + " | json" * 40 + " | truncate(5) }}",
    "{{ input.message + 1 }}",
    "{{ input.message() }}",
    "{{ 7 * 7 }}",
    "{{ {{ input.message }} }}",
    "{{ ''.__class__ }}",
    "{{ input.message | attr('x') }}",
    "{{ config['SECRET'](1) }}",
    "{{ self.__init__.__globals__() }}",
    "{{ a-b }}",
    "{{ ä }}",
    "{{" * 10_000,
    "{{ a" + ".b" * 10_000,
    "{{ a | default('" + "\\\\" * 10_000,
    "{{ a" + " " * 30_000,
    "{{ a " + "| json " * 4_000,
    "{{ a" + "[0]" * 8_000,
    "{{ a | default('" + "x" * 30_000,
]

MISSING_PATHS = [
    "{{ nothing }}",
    "{{ input.nothing }}",
    "{{ input.message.x }}",
    "{{ input.message[0] }}",
    "{{ input.l[2] }}",
    "{{ input.l[999999999] }}",
    "{{ input.l['0'] }}",
    "{{ input[0] }}",
    "{{ error.message }}",
    "{{ input.__class__ }}",
    "{{ input.l.__len__ }}",
    "{{ input['__globals__'] }}",
    "{{ __builtins__ }}",
    "{{ input.nothing | json }}",
    "{{ input.nothing | truncate(3) }}",
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("plain } {% x %} {# y #} ${z} %s {0} }}", "plain } {% x %} {# y #} ${z} %s {0} }}"),
        ("{{ input.message }}", "hi"),
        ("{{input.message}}", "hi"),
        ("{{\n input.message\t}}!", "hi!"),
        ("a {{ input.message }} b {{ last_user_message }}", "a hi b hello"),
        ("{{ input['a b'] }}", "1"),
        ('{{ input["a b"] }}', "1"),
        (r"{{ input['it\'s'] }}", "apostrophe"),
        ("{{ input.l[1].x }}", "é"),
        ("{{ input.l }}", '[1,{"x":"é"}]'),
        ("{{ input.n }}", ""),
        ("{{ input.f }} {{ input.yes }}", "2.0 true"),
        ("{{ input.message | json }}", '"hi"'),
        ("{{ input.n | json }}", "null"),
        ("{{ input.message | truncate(1) }}", "h"),
        ("{{ input.l | truncate(3) }}", "[1,"),
        ("{{ input.l | json | truncate(2) }}", "[1"),
        ("{{ input.x | default('none') }}", "none"),
        ('{{ input.x.y.z | default("a}} {{ b") }}', "a}} {{ b"),
        (r"{{ input.x | default('a\n\'b\'\\') }}", "a\n'b'\\"),
        ("{{ input.x | default(null) }}", ""),
        ("{{ input.x | default(-1.5) }}", "-1.5"),
        ("{{ input.x | default(false) }}", "false"),
        ("{{ input.x | default('abc') | truncate(2) }}", "ab"),
        ("{{ input.n | default('not for null') }}", ""),
        (r"\{{ input.message }}", "{{ input.message }}"),
        (r"\\{{ input.message }}", r"\{{ input.message }}"),
        ("{ {input.message} }", "{ {input.message} }"),
    ],
)
def test_a_prompt_renders(text: str, expected: str) -> None:
    assert parse(text).render(VIEW) == expected


@pytest.mark.parametrize("text", BAD)
def test_a_bad_prompt_is_refused_when_parsed(text: str) -> None:
    started = time.perf_counter()
    with pytest.raises(BadPrompt) as refused:
        parse("ab" + text)
    assert refused.value.position is not None
    assert refused.value.position >= 2
    assert time.perf_counter() - started < 0.25


@pytest.mark.parametrize("text", MISSING_PATHS)
def test_a_missing_path_is_an_error(text: str) -> None:
    with pytest.raises(TemplateError):
        parse(text).render(VIEW)


@pytest.mark.parametrize("text", ["{{ input.x | default('') }}", "{{ x[0]['a'].b | json | default('') }}"])
def test_a_default_replaces_a_missing_path(text: str) -> None:
    assert parse(text).render(VIEW) == ""


def test_a_prompt_knows_its_reads() -> None:
    prompt = parse("{{ input.a[0]['b c'] }} {{ x | default(1) | json }}")

    assert prompt.reads == (PromptRead(("input", "a", 0, "b c"), False), PromptRead(("x",), True))
    assert not prompt.is_static
    assert parse(r"text \{{ x }}").is_static


def test_equal_texts_share_one_prompt() -> None:
    assert parse("{{ shared }}") is parse("{{ shared }}")


@given(st.text(), st.text())
def test_inserted_text_is_never_parsed_again(before: str, inserted: str) -> None:
    names: dict[str, Json] = {"input": {"x": inserted + "{{ secret }}"}, "secret": "canary"}

    rendered = parse(escape(before) + " {{ input.x }}").render(names)

    assert rendered == f"{before} {inserted}{{{{ secret }}}}"


@given(st.text(alphabet="{}\\ a'|") | st.text())
def test_escaped_text_renders_unchanged(text: str) -> None:
    prompt = parse(escape(text))

    assert prompt.render({}) == text
    assert prompt.is_static
    assert parse_json(escape(text)).render({}) == text


@given(st.text(alphabet="{}\\|()[]'\". ainput.default0,json") | st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        prompt = parse(text)
    except BadPrompt:
        return
    try:
        prompt.render(VIEW)
    except TemplateError:
        return


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_a_lone_insertion_keeps_the_value_and_its_type(value: Json) -> None:
    rendered = parse_json({"a": ["{{ input.x }}"]}).render({"input": {"x": value}})

    assert rendered == {"a": [value]}
    assert type(rendered["a"][0]) is type(value)  # type: ignore[index]  # its shape was just compared


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("{{ input.l }}", [1, {"x": "é"}]),
        ("{{ input.l[0] | default('x') }}", 1),
        ("{{ input.x | default(2) }}", 2),
        ("{{ input.x | default(null) }}", None),
        ("{{ input.n }}", None),
        (" {{ input.l[0] }}", " 1"),
        ("{{ input.l[0] }}{{ input.l[0] }}", "11"),
        ("{{ input.l[0] | json }}", "1"),
        ({"{{ input.message }}": "{{ input.message }}"}, {"{{ input.message }}": "hi"}),
        ([1, 2.5, True, None, {"a": []}], [1, 2.5, True, None, {"a": []}]),
    ],
)
def test_a_json_value_of_prompts_renders(value: Json, expected: Json) -> None:
    rendered = parse_json(value).render(VIEW)

    assert (rendered, type(rendered)) == (expected, type(expected))


def test_a_json_prompt_knows_its_reads_and_renders_a_new_value_each_time() -> None:
    value = parse_json({"a": ["{{ input.a }}", {"b": "x"}], "c": "{{ d | default(1) }}"})

    assert value.reads == (PromptRead(("input", "a"), False), PromptRead(("d",), True))
    assert [prompt.text for prompt in value] == ["{{ input.a }}", "x", "{{ d | default(1) }}"]
    static = parse_json({"a": [1]})
    assert static.is_static
    assert static.render({}) is not static.render({})


def test_a_rendered_text_has_a_limit() -> None:
    names: dict[str, Json] = {"input": {"x": "a" * 262_144, "e": "é" * 131_073}}

    assert len(parse("{{ input.x }}").render(names)) == 262_144
    for text in ("{{ input.x }}!", "{{ input.e }}", "{{ input.x }}" * 2_000):
        with pytest.raises(TemplateError, match="256 KiB"):
            parse(text).render(names)
    with pytest.raises(TemplateError, match="256 KiB"):
        parse_json(["-{{ input.x }}"] * 3).render(names)
    with pytest.raises(TemplateError, match="256 KiB"):
        parse_json(["{{ input.x }}"] * 3).render(names)
    assert parse("{{ input.e | truncate(2) }}").render(names) == "éé"


def test_values_that_json_cannot_represent_are_errors() -> None:
    for value in (2**70, ["\ud800"]):
        with pytest.raises(TemplateError):
            parse("{{ input }}").render({"input": value})  # type: ignore[dict-item]  # a list of texts is JSON


def test_a_too_deeply_nested_value_is_refused() -> None:
    value: Json = "x"
    for _ in range(5_000):
        value = [value]

    with pytest.raises(BadPrompt):
        parse_json(value)


def test_hostile_prompts_are_bounded_in_time_and_memory() -> None:
    program = (
        "import json, resource, sys, time\n"
        "from engine.errors import TemplateError\n"
        "from engine.expressions.prompts import BadPrompt, parse_json\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "names = {'input': {'x': 'a' * 262_144, 'l': list(range(40_000))}}\n"
        "for value in json.load(sys.stdin):\n"
        "    before, started = peak(), time.process_time()\n"
        "    try:\n"
        "        outcome = type(parse_json(value).render(names)).__name__\n"
        "    except (BadPrompt, TemplateError) as error:\n"
        "        outcome = type(error).__name__\n"
        "    print(json.dumps([outcome, time.process_time() - started, peak() - before]))\n"
    )
    hostile: list[Json] = [
        *BAD,
        *MISSING_PATHS,
        "{{ input.x }}" * 2_500,
        "{{ input.l }}" * 2_500,
        ["{{ input.x }}"] * 5_000,
        ["{{ input.l }}"] * 5_000,
        ["-{{ input.x }}"] * 5_000,
        "{{ input.x | json | truncate(9) }}" * 900,
        "{{ input.x" + " | json" * 40 + " | truncate(5) }}",
        "{{ input.x | truncate(999999999) }}" * 900,
        r"\{{" * 10_000,
        "\\" * 30_000 + "{{",
    ]
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(hostile),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, len(rows)) == (0, len(hostile)), done.stderr[-500:]
    assert [(index, row) for index, row in enumerate(rows) if row[1] >= 0.25 or row[2] >= 100] == []
