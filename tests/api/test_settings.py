"""The settings: read from the environment, with sentences for what is wrong."""

import os
import re
import sys
from pathlib import Path

import pytest

from api.service.logs import JsonLines
from api.settings import Settings, SettingsInvalid, check_ingest, prepare_process, read_settings
from tests.house.lock import ROOT


def test_without_an_environment_there_are_defaults() -> None:
    settings = read_settings()
    assert settings.database_url == "sqlite:///./spanloom.db"
    assert settings.address == ("127.0.0.1", 8000)
    assert not any(provider.is_set for provider in settings.providers.values())


def test_what_is_set_counts_and_what_is_empty_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SPANLOOM_BIND": "[::1]:9000",
        "SPANLOOM_MODEL": "",
        "SPANLOOM_FILES_ROOTS": "/a, /b",
        "SPANLOOM_LOG_LEVEL": "DEBUG",
        "GEMINI_API_KEY": "key-1",
        "OPENAI_BASE_URL": "http://127.0.0.1:4010/v1",
    }.items():
        monkeypatch.setenv(name, value)
    settings = read_settings()
    assert settings.address == ("::1", 9000)
    assert settings.model is None
    assert settings.files_roots == (Path("/a"), Path("/b"))
    assert settings.log_level == "debug"
    assert settings.providers["google"].api_key == "key-1"
    assert settings.providers["openai"].is_set


def test_lists_are_split_at_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SPANLOOM_SECRET_KEY": f"{'b' * 32}, {'a' * 32}",
        "SPANLOOM_WEBHOOK_SCHEDULE": "0, 0.5, 60",
        "SPANLOOM_EGRESS_ALLOW": "10.1.0.0/16, hooks.internal:8080",
        "SPANLOOM_EGRESS_PORTS": "443",
    }.items():
        monkeypatch.setenv(name, value)
    settings = read_settings()
    assert list(settings.secret_key) == ["b" * 32, "a" * 32]
    assert list(settings.webhook_schedule) == [0, 0.5, 60]
    assert list(settings.egress_allow) == ["10.1.0.0/16", "hooks.internal:8080"]
    assert list(settings.egress_ports) == [443]
    assert "bbbb" not in repr(settings)


def test_port_counts_where_nothing_else_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "5000")
    assert read_settings().address == ("127.0.0.1", 5000)
    monkeypatch.setenv("SPANLOOM_BIND", "127.0.0.1:6000")
    assert read_settings().address == ("127.0.0.1", 6000)


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"SPANLOOM_BIND": "[::1]:9000"}, "http://[::1]:9000"),
        ({"SPANLOOM_PUBLIC_URL": "https://flows.example/spanloom/"}, "https://flows.example/spanloom"),
    ],
)
def test_links_lead_to_the_public_address(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], address: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert read_settings().public_address == address


def test_a_variable_of_the_collector_in_a_shared_environment_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPANLOOM_INGEST_TOKEN", "x" * 40)
    assert read_settings().ingest_tokens == ()
    monkeypatch.setenv("SPANLOOM_INGEST_TOKN", "x")
    with pytest.raises(SettingsInvalid, match=r"SPANLOOM_INGEST_TOKN\. Did you mean SPANLOOM_INGEST_TOKENS\?"):
        read_settings()


def test_every_variable_of_the_collectors_file_leaves_the_service_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    named = set(re.findall(r"\$\{env:(SPANLOOM_\w+)", (ROOT / "otel-collector.yaml").read_text()))
    assert named
    for name in named:
        monkeypatch.setenv(name, "x" * 40)
    read_settings()


def test_a_misspelt_variable_is_named_with_the_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPANLOOM_DATABSE_URL", "x")
    with pytest.raises(
        SettingsInvalid, match=r"Unknown setting SPANLOOM_DATABSE_URL\. Did you mean SPANLOOM_DATABASE_URL\?"
    ):
        read_settings()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("SPANLOOM_BIND", "8000", "SPANLOOM_BIND: is written as host:port"),
        ("SPANLOOM_MODEL", "gpt", "SPANLOOM_MODEL: is written as provider:model"),
        ("SPANLOOM_TRACE_URL", "http://localhost", "SPANLOOM_TRACE_URL: must contain {trace_id}"),
        ("SPANLOOM_MAX_BODY_BYTES", "0", "SPANLOOM_MAX_BODY_BYTES: Input should be greater than or equal to 1"),
        ("SPANLOOM_TRACEPARENT", "obey", "SPANLOOM_TRACEPARENT: Input should be 'join', 'link' or 'ignore'"),
        ("PORT", "sk-canary-1234", "PORT: Input should be a valid integer"),
        ("SPANLOOM_SECRET_KEY", "sk-canary-1234", "SPANLOOM_SECRET_KEY: a key has at least 32 characters"),
        ("SPANLOOM_WEBHOOK_SCHEDULE", "5,10", "SPANLOOM_WEBHOOK_SCHEDULE: begins with 0"),
        ("SPANLOOM_WEBHOOK_SCHEDULE", "0,-1", "SPANLOOM_WEBHOOK_SCHEDULE: Input should be greater than or equal to 0"),
        ("SPANLOOM_WEBHOOK_TIMEOUT_SECONDS", "0", "SPANLOOM_WEBHOOK_TIMEOUT_SECONDS: Input should be greater than 0"),
        ("SPANLOOM_EGRESS_ALLOW", "sk-canary-1234", "SPANLOOM_EGRESS_ALLOW: lists networks as in 10.1.0.0/16"),
        ("SPANLOOM_WORKER_SLOTS", "0", "SPANLOOM_WORKER_SLOTS: Input should be greater than or equal to 1"),
        ("SPANLOOM_MAX_QUEUED", "0", "SPANLOOM_MAX_QUEUED: Input should be greater than or equal to 1"),
        ("SPANLOOM_LEASE_SECONDS", "20", "SPANLOOM_LEASE_RENEW_SECONDS is less than half of SPANLOOM_LEASE_SECONDS"),
        ("SPANLOOM_IDEMPOTENCY_HOURS", "0", "SPANLOOM_IDEMPOTENCY_HOURS: Input should be greater than 0"),
        ("OPENAI_BASE_URL", "sk-canary-1234:4010/v1", "OPENAI_BASE_URL: must be a URL with its scheme"),
        ("OPENAI_BASE_URL", "http://", "OPENAI_BASE_URL: must be a URL with its scheme"),
        ("OPENAI_BASE_URL", "http://[::1", "OPENAI_BASE_URL: must be a URL with its scheme"),
        ("SPANLOOM_EGRESS_PORTS", "https", "SPANLOOM_EGRESS_PORTS: Input should be a valid integer"),
    ],
)
def test_a_value_that_cannot_be_used_is_said(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsInvalid) as refused:
        read_settings()
    assert refused.value.message.startswith(sentence)
    assert "canary" not in refused.value.message


def test_secrets_are_not_shown() -> None:
    settings = Settings(database_url="postgresql://user:canary@host/db", openai_api_key="canary")
    assert "canary" not in repr(settings)
    assert "canary" not in repr(settings.providers)


def test_libraries_are_told_before_they_are_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGSMITH_TRACING", "true")
    monkeypatch.delenv("ANTHROPIC_OPEN_TELEMETRY")
    prepare_process(Settings())
    assert os.environ["LANGSMITH_TRACING"] == os.environ["ANTHROPIC_OPEN_TELEMETRY"] == "false"
    monkeypatch.setenv("LANGSMITH_TRACING", "true")
    prepare_process(Settings(langsmith=True))
    assert os.environ["LANGSMITH_TRACING"] == "true"


def test_langgraph_must_not_come_before_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LANGGRAPH_STRICT_MSGPACK")
    monkeypatch.setitem(sys.modules, "langgraph", object())
    with pytest.raises(SettingsInvalid, match="LangGraph was imported before"):
        prepare_process(Settings())


def test_a_log_line_is_json_with_its_fields() -> None:
    import logging

    import orjson

    record = logging.makeLogRecord({"name": "api", "levelname": "INFO", "msg": "ready at %s", "args": ("x",), "n": 1})
    line = orjson.loads(JsonLines().format(record))
    assert (line["message"], line["level"], line["n"]) == ("ready at x", "info", 1)


def test_the_collector_needs_a_token_to_show() -> None:
    with pytest.raises(SettingsInvalid, match="SPANLOOM_INGEST_TOKENS"):
        check_ingest(Settings(pipeline="collector"))
    with pytest.raises(SettingsInvalid, match="SPANLOOM_PIPELINE=collector"):
        check_ingest(Settings(ingest_tokens=("x" * 32,)))
    check_ingest(Settings(pipeline="collector", ingest_tokens=("x" * 32,)))


def test_a_short_token_is_refused_with_the_way_to_make_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPANLOOM_INGEST_TOKENS", f"{'x' * 32},{'y' * 31}")
    with pytest.raises(SettingsInvalid) as refused:
        read_settings()
    assert str(refused.value) == (
        "SPANLOOM_INGEST_TOKENS: a token has at least 32 characters; make one with `openssl rand -hex 32`"
    )


@pytest.mark.parametrize("bind", ["0.0.0.0:8001", "[::]:8001", "10.0.0.7:8001", "receiver.internal:8001"])
def test_plain_http_from_other_machines_needs_a_setting(bind: str) -> None:
    settings = Settings(pipeline="collector", ingest_tokens=("x" * 32,), ingest_bind=bind)
    with pytest.raises(SettingsInvalid, match="SPANLOOM_COLLECTOR_PLAIN_HTTP=true"):
        check_ingest(settings)
    check_ingest(settings.model_copy(update={"collector_plain_http": True}))


@pytest.mark.parametrize("days", ["0", "-1", "1e12", "nan", "inf"])
def test_days_beyond_the_calendar_are_refused(monkeypatch: pytest.MonkeyPatch, days: str) -> None:
    monkeypatch.setenv("SPANLOOM_SPANS_DAYS", days)
    with pytest.raises(SettingsInvalid, match=r"SPANLOOM_SPANS_DAYS: lies between an hour, 0.042, and 36500 days"):
        read_settings()


def test_hours_of_idempotency_beyond_the_calendar_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPANLOOM_IDEMPOTENCY_HOURS", "1e9")
    with pytest.raises(SettingsInvalid, match="SPANLOOM_IDEMPOTENCY_HOURS"):
        read_settings()
