"""Attack: servers that bill otherwise than their model's list price says. No cost is booked that nobody charges."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from engine.errors import InvalidRequest, MissingExtra
from engine.execution.local_resources import local_resources
from engine.graph import Json, JsonObject
from tests.api.cli.shell import Shell

MILLION = 1_000_000
OPENAI_USAGE: JsonObject = {"prompt_tokens": MILLION, "completion_tokens": 100_000, "total_tokens": 1_100_000}
ANTHROPIC_USAGE: JsonObject = {"input_tokens": MILLION, "output_tokens": 100_000}

GPT_5_NANO_USD = {"default": 2_250_000_000, "flex": 1_125_000_000, "priority": 4_500_000_000}
"""1 million tokens in and 100,000 out, as genai-prices computes it."""


@dataclass
class Biller:
    """A server with the protocols of OpenAI and Anthropic whose bill says what a test wants."""

    url: str
    usage: JsonObject
    beside: JsonObject = field(default_factory=dict)
    """Fields of OpenAI's answer beside the usage."""
    asked: list[JsonObject] = field(default_factory=list)

    def openai(self, *, streams: bool) -> bytes:
        head: JsonObject = {"id": "1", "created": 1, "model": "gpt-5", **self.beside}
        said: JsonObject = {"role": "assistant", "content": "Hello"}
        if not streams:
            choice: JsonObject = {"index": 0, "message": said, "finish_reason": "stop"}
            return json.dumps({**head, "object": "chat.completion", "choices": [choice], "usage": self.usage}).encode()
        chunks: list[JsonObject] = [
            {"choices": [{"index": 0, "delta": said, "finish_reason": None}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {"choices": [], "usage": self.usage},
        ]
        events = [json.dumps({**head, "object": "chat.completion.chunk", **chunk}) for chunk in chunks]
        return "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"]).encode()

    def anthropic(self, *, streams: bool) -> bytes:
        message: JsonObject = {"id": "m", "type": "message", "role": "assistant", "model": "claude-haiku-4-5"}
        message |= {"content": [], "stop_reason": None, "stop_sequence": None, "usage": self.usage}
        if not streams:
            text: JsonObject = {"type": "text", "text": "Hello"}
            return json.dumps({**message, "content": [text], "stop_reason": "end_turn"}).encode()
        usage = {name: count for name, count in self.usage.items() if name != "service_tier"}
        events: list[JsonObject] = [
            {"type": "message_start", "message": {**message, "usage": {**self.usage, "output_tokens": 1}}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage},
            {"type": "message_stop"},
        ]
        return "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events).encode()


@contextmanager
def billing(usage: JsonObject, **beside: Json) -> Iterator[Biller]:
    """A server that answers each request, with this usage and these fields beside it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            biller.asked.append(body)
            streams = bool(body.get("stream"))
            answer = biller.openai if "completions" in self.path else biller.anthropic
            self.send_response(200)
            self.send_header("content-type", "text/event-stream" if streams else "application/json")
            self.end_headers()
            self.wfile.write(answer(streams=streams))

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        biller = Biller(f"http://127.0.0.1:{server.server_port}", usage, beside)
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield biller
        finally:
            server.shutdown()


def graph(provider: str, model: str, *, stream: bool, **config: Json) -> JsonObject:
    return {
        "schema": "spanloom/1",
        "name": "ask",
        "nodes": [
            {"id": "start", "type": "start"},
            {
                "id": "ask",
                "type": "model",
                "stream": stream,
                "config": {"provider": provider, "model": model, "prompt": "hi", **config},
            },
            {"id": "end", "type": "end"},
        ],
        "edges": [{"source": "start", "target": "ask"}, {"source": "ask", "target": "end"}],
    }


def environment(biller: Biller, **more: str) -> dict[str, str]:
    return {
        "OPENAI_BASE_URL": f"{biller.url}/v1",
        "OPENAI_API_KEY": "key",
        "ANTHROPIC_BASE_URL": biller.url,
        "ANTHROPIC_API_KEY": "key",
        **more,
    }


def call(shell: Shell, document: JsonObject, **variables: str) -> dict[str, Any]:
    """Run a workflow; the span of its model call as the trace shows it."""
    (shell.folder / "ask.json").write_text(json.dumps(document))
    done = shell.run("run", "ask.json", "-m", "hi", "--json", **variables)
    assert done.returncode == 0, done.stderr + done.stdout
    trace = json.loads(shell.run("trace", "last", "--json").stdout)
    [span] = [span for span in trace["spans"] if span["kind"] == "model"]
    return dict(span)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("tier", GPT_5_NANO_USD)
def test_the_tier_that_answered_is_paid_for_whatever_was_asked_for(shell: Shell, tier: str, stream: bool) -> None:
    with billing(OPENAI_USAGE, service_tier=tier) as biller:
        span = call(
            shell,
            graph("openai", "gpt-5", stream=stream, service_tier="flex"),
            **environment(biller, SPANLOOM_FOREIGN_PRICES="trust"),
        )

    assert biller.asked[0]["service_tier"] == "flex"
    assert (span["cost_nano_usd"], span["service_tier"]) == (GPT_5_NANO_USD[tier], tier)
    assert span["attributes"]["openai.request.service_tier"] == "flex"
    assert span["attributes"]["openai.response.service_tier"] == tier


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("tier", "nano_usd"), [("standard", 1_500_000_000), ("batch", 750_000_000)])
def test_anthropics_tier_is_read_from_its_usage(shell: Shell, tier: str, nano_usd: int, stream: bool) -> None:
    with billing({**ANTHROPIC_USAGE, "service_tier": tier}) as biller:
        span = call(
            shell,
            graph("anthropic", "claude-haiku-4-5", stream=stream, service_tier="default"),
            **environment(biller, SPANLOOM_FOREIGN_PRICES="trust"),
        )

    assert biller.asked[0]["service_tier"] == "standard_only"
    assert (span["service_tier"], span["cost_nano_usd"]) == (tier, nano_usd)


@pytest.mark.parametrize("tier", ["scale", "\u202eflex", "x" * 64])
def test_a_tier_that_nobody_knows_is_unpriced_and_says_so(shell: Shell, tier: str) -> None:
    with billing(OPENAI_USAGE, service_tier=tier) as biller:
        span = call(
            shell, graph("openai", "gpt-5", stream=True), **environment(biller, SPANLOOM_FOREIGN_PRICES="trust")
        )

    assert (span["cost_nano_usd"], span["cost_source"], span["unpriced_reason"]) == (None, "none", "unknown_tier")
    assert "unpriced: the service tier has no price" in shell.run("trace", "last").stdout


def test_a_price_at_another_server_is_marked_as_an_assumption_everywhere(shell: Shell) -> None:
    with billing(OPENAI_USAGE) as biller:
        span = call(shell, graph("openai", "gpt-5", stream=True), **environment(biller))
    [total, record] = [shell.json("cost")["total"], shell.json("executions", "show", "last")]
    said = [shell.run(*command).stdout for command in (("cost",), ("trace", "last"), ("executions", "show", "last"))]

    assert (span["cost_source"], span["cost_nano_usd"]) == ("assumed", GPT_5_NANO_USD["default"])
    assert record["assumed_calls"] == record["result"]["assumed_calls"] == total["assumed_calls"] == 1
    assert total["assumed_nano_usd"] == total["cost_nano_usd"] == GPT_5_NANO_USD["default"]
    for text in said:
        assert "at catalogue price, the server is not the provider's" in text


@pytest.mark.parametrize(
    ("setting", "source", "nano_usd"), [("none", "none", None), ("trust", "price_table", GPT_5_NANO_USD["default"])]
)
def test_a_setting_says_what_holds_at_another_server(
    shell: Shell, setting: str, source: str, nano_usd: int | None
) -> None:
    with billing(OPENAI_USAGE) as biller:
        span = call(
            shell, graph("openai", "gpt-5", stream=True), **environment(biller, SPANLOOM_FOREIGN_PRICES=setting)
        )

    assert (span["cost_source"], span["cost_nano_usd"]) == (source, nano_usd)
    assert span["unpriced_reason"] == ("foreign_server" if setting == "none" else None)


def test_an_own_price_of_the_server_is_no_assumption(shell: Shell) -> None:
    own: JsonObject = {"provider": "openai", "host": "127.0.0.1", "input_mtok": "0.01", "output_mtok": "0.1"}
    (shell.folder / "prices.json").write_text(json.dumps({"prices": [own]}))
    with billing(OPENAI_USAGE) as biller:
        span = call(shell, graph("openai", "gpt-5", stream=True), **environment(biller, SPANLOOM_PRICES="prices.json"))

    assert (span["cost_source"], span["cost_nano_usd"]) == ("override", 20_000_000)
    assert shell.json("cost")["total"]["assumed_calls"] == 0


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("variables", "source", "booked"),
    [
        ({}, "provider", 1_230_000_000),
        ({"SPANLOOM_FOREIGN_PRICES": "trust"}, "price_table", GPT_5_NANO_USD["default"]),
        ({"SPANLOOM_FOREIGN_PRICES": "trust", "SPANLOOM_PREFER_PROVIDER_COST": "true"}, "provider", 1_230_000_000),
    ],
)
def test_the_cost_that_the_provider_reports_stands_beside_ours(
    shell: Shell, variables: dict[str, str], source: str, booked: int, stream: bool
) -> None:
    with billing({**OPENAI_USAGE, "cost": 1.23}) as biller:
        span = call(shell, graph("openai", "gpt-5", stream=stream), **environment(biller, **variables))
    total, reconciled = shell.json("cost")["total"], shell.json("reconcile")

    assert (span["provider_nano_usd"], span["cost_source"], span["cost_nano_usd"]) == (1_230_000_000, source, booked)
    assert total["provider_difference_nano_usd"] == 1_230_000_000 - booked
    assert [bill["difference_nano_usd"] for bill in reconciled["bills"]] == [1_230_000_000 - booked]
    sentence = "openai gpt-5: the provider reported $1.23 for 1 call, $1.02 less than booked"
    assert (sentence in shell.run("reconcile").stdout) == (source == "price_table")


@pytest.mark.parametrize("cost", [-1, "free", True, 1e300, [1], {"total_cost": -2}, None])
def test_a_reported_cost_that_cannot_be_one_is_not_taken(shell: Shell, cost: Json) -> None:
    with billing({**OPENAI_USAGE, "cost": cost}) as biller:
        span = call(shell, graph("openai", "gpt-5", stream=True), **environment(biller))

    assert (span["provider_nano_usd"], span["cost_source"]) == (None, "assumed")


def test_a_model_that_only_its_provider_can_price_costs_what_the_provider_says(shell: Shell) -> None:
    with billing({**OPENAI_USAGE, "cost": {"total_cost": 0.000_000_001}}) as biller:
        span = call(shell, graph("openai", "no-such-model", stream=True), **environment(biller))

    assert (span["cost_source"], span["cost_nano_usd"], span["unpriced_reason"]) == ("provider", 1, None)


def test_a_tier_that_the_provider_lacks_is_found_before_anything_is_sent(shell: Shell) -> None:
    (shell.folder / "ask.json").write_text(
        json.dumps(graph("anthropic", "claude-haiku-4-5", stream=True, service_tier="flex"))
    )
    with billing(ANTHROPIC_USAGE) as biller:
        done = shell.run("validate", "ask.json", "--json", **environment(biller))

    issues = {issue["code"]: issue for issue in json.loads(done.stdout)["items"][0]["report"]["issues"]}
    assert (done.returncode, biller.asked) == (1, [])
    assert "Use auto or default" in issues["capability.unknown_service_tier"]["hint"]


# No demo answers in the place of a model that was meant


@pytest.fixture
def without_openai(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> ModuleSpec | None:
        return None if name == "langchain_openai" else find_spec(name)

    monkeypatch.setattr("importlib.util.find_spec", find)


@pytest.mark.usefixtures("without_openai")
@pytest.mark.parametrize("command", [("run", "universal_chat", "-m", "hi"), ("serve",)])
def test_a_key_without_its_package_stops_the_start_and_names_the_command(
    shell: Shell, command: tuple[str, ...]
) -> None:
    done = shell.run(*command, OPENAI_API_KEY="key", PORT="0")

    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'spanloom[openai]'" in done.stderr


@pytest.mark.usefixtures("without_openai")
def test_doctor_names_the_package_of_a_key(shell: Shell) -> None:
    done = shell.run("doctor", OPENAI_API_KEY="key")

    assert done.returncode == 1
    assert "pip install 'spanloom[openai]'" in done.stdout


@pytest.mark.parametrize(
    ("model", "said"), [("opnai:gpt-5", "use one of openai"), ("openai:gpt-5", "set OPENAI_API_KEY")]
)
def test_an_unknown_model_stops_the_start_and_doctor_says_why(shell: Shell, model: str, said: str) -> None:
    ran = shell.run("run", "universal_chat", "-m", "hi", SPANLOOM_MODEL=model)
    examined = shell.run("doctor", SPANLOOM_MODEL=model)

    assert (ran.returncode, ran.stdout, examined.returncode) == (2, "", 1)
    assert said in ran.stderr
    assert said in examined.stdout


@pytest.mark.usefixtures("without_openai")
def test_a_script_with_a_key_but_without_its_package_gets_an_error() -> None:
    with pytest.raises(MissingExtra, match="pip install"):
        local_resources(openai_api_key="key")
    with pytest.raises(InvalidRequest, match="pip install"):
        local_resources("openai:gpt-5", openai_api_key="key")
    local_resources("offline:extractive", openai_api_key="key").files.close()


def test_an_offline_answer_says_so_at_the_start_and_on_the_result(shell: Shell) -> None:
    done = shell.run("run", "universal_chat", "-m", "hi", "--json")
    quiet = shell.run("run", "universal_chat", "-m", "hi", "--quiet")
    named = shell.run("run", "universal_chat", "-m", "hi", "--json", SPANLOOM_MODEL="offline:extractive")

    assert json.loads(done.stdout)["metadata"]["offline"] is True
    assert json.loads(named.stdout)["metadata"]["offline"] is True
    assert shell.json("executions", "show", "last")["result"]["metadata"]["offline"] is True
    assert "the offline model answers" in done.stderr
    assert "the offline model answers" not in quiet.stderr + named.stderr


def test_an_answer_of_a_provider_is_not_marked_as_offline(shell: Shell) -> None:
    with billing(OPENAI_USAGE) as biller:
        done = shell.run("run", "universal_chat", "-m", "hi", "--json", **environment(biller))

    assert json.loads(done.stdout)["metadata"]["offline"] is False
    assert "offline" not in done.stderr


def test_a_service_without_a_key_logs_that_it_answers_offline(shell: Shell) -> None:
    process = shell.start("serve", PORT="0", SPANLOOM_LOG_FORMAT="json", SPANLOOM_LOG_LEVEL="warning")
    try:
        assert process.stderr is not None
        first = json.loads(process.stderr.readline())
    finally:
        process.kill()
        process.communicate()

    assert (first["level"], "the offline model answers" in first["message"]) == ("warning", True)
