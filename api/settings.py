"""Every setting of the service. Only this module reads the environment, except `OTEL_*`, which telemetry reads.

`api/setting_texts.py` shows them: the first line of a field's description is what users read.
"""

import difflib
import os
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from api.setting_values import (
    Days,
    Folders,
    HostAndPort,
    Hours,
    HttpUrl,
    Listed,
    LowerCase,
    Origins,
    Places,
    Port,
    Ports,
    ProviderAndModel,
    Schedule,
    Seconds,
    SecretKeys,
    Span,
    Tokens,
    TraceUrl,
)
from engine.errors import SpanloomError
from engine.models.registry import ProviderSettings
from engine.security.redaction import know_secrets, url_secrets

PREFIX = "SPANLOOM_"

HttpSpans = Literal["starts", "all", "none"]

_OF_TESTS = frozenset({"SPANLOOM_FAULTS", "SPANLOOM_FAULTS_SEED", "SPANLOOM_REQUIRE_ALL", "SPANLOOM_TEST_DATABASE_URL"})

_OF_THE_COLLECTOR = frozenset({"SPANLOOM_INGEST_TOKEN"})
"""Read by otel-collector.yaml; both programs may be started from one environment."""


class SettingsInvalid(SpanloomError):
    """A setting has a value that cannot be used."""

    code = "invalid_settings"


class Settings(BaseSettings):
    """The settings from the environment. An empty variable counts as not set; commas separate list items."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, populate_by_name=True, frozen=True, extra="forbid"
    )

    database_url: str = Field(
        "sqlite:///./spanloom.db",
        repr=False,
        description="Database: sqlite:///file or postgresql://user@host/name",
    )
    sqlite_synchronous: Literal["NORMAL", "FULL"] = Field(
        "NORMAL",
        description="Durability of commits on SQLite: NORMAL survives a crash of the process, FULL one of the machine",
    )
    content: Annotated[Literal["none", "result", "full"], LowerCase] = Field(
        "result",
        description="What the database keeps of ended executions: no content, input and answer (result), or each "
        "call's messages, too (full)",
    )
    secret_key: SecretKeys = Field(
        (),
        repr=False,
        description="Long random keys that seal secrets and sign signals, newest first (SQLite: else a file beside it)",
    )
    bind: HostAndPort | None = Field(
        None, description="Address to listen on; beyond loopback only if there are API keys or OIDC (127.0.0.1:8000)"
    )
    pipeline: Annotated[Literal["embedded", "collector"], LowerCase] = Field(
        "embedded",
        description="How signals are recorded: embedded, or through the collector at OTEL_EXPORTER_OTLP_ENDPOINT",
    )
    ingest_bind: HostAndPort = Field("127.0.0.1:8001", description="Address to listen on for the Collector")
    ingest_tokens: Tokens = Field(
        (),
        repr=False,
        description="Tokens accepted from the Collector, at least 32 characters each; list two during a rotation",
    )
    collector_plain_http: bool = Field(
        False, description="Whether signals may go to and come from a Collector on another machine without TLS"
    )
    outbox_confirm_seconds: Seconds = Field(
        60.0,
        description="Seconds after which a shipped signal that has not come back from the Collector is stored locally",
    )
    allowed_hosts: Listed = Field(
        (),
        description="Host names that requests may use without keys, besides loopback names and the host of PUBLIC_URL",
    )
    cors_origins: Origins = Field(
        (), description="Origins of web pages that may call the service with a key, as in https://app.example, or *"
    )
    oidc_issuer: HttpUrl | None = Field(
        None, description="Issuer of tokens (OIDC) that count like API keys, as their claim iss names it"
    )
    oidc_audience: Listed = Field((), description="Audiences of which a token must name one in its claim aud")
    oidc_jwks_url: HttpUrl | None = Field(
        None, description="Address of the issuer's public keys, as in https://id.example/.well-known/jwks.json"
    )
    oidc_owner_claim: str = Field("sub", description="Claim of a token that names the owner")
    oidc_scope_claim: str = Field("scope", description="Claim of a token that lists its scopes")
    public_url: HttpUrl | None = Field(
        None, description="Address at which people reach the service, for links in alerts and dashboards (that of BIND)"
    )
    trace_url: TraceUrl | None = Field(
        None, description="URL of a trace in your trace store: http://localhost:16686/trace/{trace_id}"
    )
    docs: bool | None = Field(
        None, description="Whether /docs shows the API in Swagger UI (where BIND is a loopback address)"
    )
    prometheus_url: HttpUrl | None = Field(
        None, description="Prometheus server whose counters are compared with the records: http://localhost:9090"
    )
    traceparent: Literal["join", "link", "ignore"] = Field(
        "join",
        description="What executions do with a caller's traceparent: join its trace (if queued, link), link or ignore",
    )
    http_spans: HttpSpans = Field(
        "starts", description="HTTP requests that have a span in traces: starts (of executions), all or none"
    )
    phoenix_project: str | None = Field(
        None, description="Project in which Arize Phoenix shows the traces (the one that it calls default)"
    )
    model: ProviderAndModel | None = Field(
        None,
        description="provider:model for nodes that name none (the first provider with a key, else offline:extractive)",
    )
    files_roots: Folders = Field((), description="Folders that requests over HTTP may search with the files retriever")
    files_allow: Listed = Field(
        (),
        description="Names of hidden and key files that the files retriever may read, as in .github or id_*.md",
    )
    prices: Path | None = Field(
        None, description="JSON file with your own prices, which take precedence over the catalogue"
    )
    foreign_prices: Annotated[Literal["assume", "none", "trust"], LowerCase] = Field(
        "assume",
        description="Price where the server is not the provider's: assume the catalogue's, trust it, or none",
    )
    prefer_provider_cost: bool = Field(
        False, description="Whether a cost that the provider reports counts even where the model has a price"
    )
    webhook_schedule: Schedule = Field(
        (0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400),
        description="Seconds before each attempt to deliver a webhook, the first one included",
    )
    webhook_timeout_seconds: Annotated[float, Field(gt=0, le=300, allow_inf_nan=False)] = Field(
        20.0, description="Seconds that an endpoint may take to respond to a webhook"
    )
    webhook_disable_hours: Seconds = Field(
        120.0, description="Hours of continuous failures after which an endpoint is disabled"
    )
    egress_allow: Places = Field(
        (),
        description="Internal addresses that webhooks may call, also by http: networks as in 10.1.0.0/16, or host:port",
    )
    egress_ports: Ports = Field((443, 8443), description="Ports that webhooks may call")
    max_answer_bytes: int = Field(
        4_194_304, ge=1_024, description="Largest answer of a model, in bytes of text, reasoning and tool arguments"
    )
    max_answer_calls: int = Field(128, ge=1, description="Maximum number of tool calls in one answer of a model")
    max_body_bytes: int = Field(1_048_576, ge=1, description="Largest request body, in bytes")
    header_seconds: Span = Field(10.0, description="Seconds in which the headers of a request must arrive")
    body_seconds: Span = Field(60.0, description="Seconds in which the body of a request must arrive")
    max_connections: int = Field(
        512, ge=1, description="Maximum number of connections per client address; a proxy in front is one address"
    )
    disconnect_seconds: Seconds = Field(
        5.0, description="Seconds after the last client disconnects until its execution is cancelled"
    )
    lease_seconds: Annotated[float, Field(ge=1, allow_inf_nan=False)] = Field(
        30.0, description="Seconds after which an execution whose process renews no lease is taken over"
    )
    lease_renew_seconds: Span = Field(
        10.0, description="Seconds between lease renewals; less than half of LEASE_SECONDS"
    )
    sweep_seconds: Span = Field(5.0, description="Seconds between searches for executions whose process is gone")
    drain_seconds: Seconds = Field(20.0, description="Seconds that running executions may continue after SIGTERM")
    content_days: Days = Field(
        30.0,
        description="Days after which input and answer of an execution are deleted; IDEMPOTENCY_HOURS at least",
    )
    spans_days: Days = Field(90.0, description="Days after which the spans of an ended execution are deleted")
    records_days: Days | None = Field(
        None, description="Days after which the record of an ended execution is deleted; without it records are kept"
    )
    idempotency_hours: Hours = Field(24.0, description="Hours for which an Idempotency-Key returns the same execution")
    max_queued: int = Field(1_000, ge=1, description="Maximum number of queued executions per owner")
    worker_slots: int = Field(64, ge=1, description="Maximum number of queued executions that a process runs at once")
    log_level: Annotated[Literal["debug", "info", "warning", "error"], LowerCase] = Field(
        "info", description="Lowest log level that is written"
    )
    log_format: Literal["text", "json"] | None = Field(None, description="text on terminals, else json")
    langsmith: bool = Field(False, description="Whether LANGSMITH_TRACING may send payloads to LangSmith")

    port: Port | None = Field(None, validation_alias="PORT", description="Port to listen on where BIND is not set")
    openai_api_key: str | None = Field(None, validation_alias="OPENAI_API_KEY", repr=False, description="Key of OpenAI")
    openai_base_url: HttpUrl | None = Field(
        None, validation_alias="OPENAI_BASE_URL", description="Address of a server that speaks OpenAI's protocol"
    )
    anthropic_api_key: str | None = Field(
        None, validation_alias="ANTHROPIC_API_KEY", repr=False, description="Key of Anthropic"
    )
    anthropic_base_url: HttpUrl | None = Field(
        None, validation_alias="ANTHROPIC_BASE_URL", description="Address of a server that speaks Anthropic's protocol"
    )
    google_api_key: str | None = Field(
        None,
        validation_alias=AliasChoices("GOOGLE_API_KEY", "GEMINI_API_KEY"),
        repr=False,
        description="Key of Google; GEMINI_API_KEY is read too",
    )
    google_base_url: HttpUrl | None = Field(
        None, validation_alias="GOOGLE_GEMINI_BASE_URL", description="Address of a server that speaks Gemini's protocol"
    )

    @model_validator(mode="after")
    def _renewed_in_time(self) -> Self:
        """Require that one renewal may fail or be late."""
        if self.lease_renew_seconds * 2 >= self.lease_seconds:
            raise ValueError(
                "SPANLOOM_LEASE_RENEW_SECONDS is less than half of SPANLOOM_LEASE_SECONDS, so that one renewal may fail"
            )
        return self

    @model_validator(mode="after")
    def _checks_tokens(self) -> Self:
        """Require what tokens are checked with: one of another service, or signed by another, must not count."""
        if self.oidc_issuer is not None and not (self.oidc_audience and self.oidc_jwks_url):
            raise ValueError("SPANLOOM_OIDC_ISSUER needs SPANLOOM_OIDC_AUDIENCE and SPANLOOM_OIDC_JWKS_URL")
        return self

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to listen on."""
        if self.bind is None:
            return "127.0.0.1", self.port if self.port is not None else 8000
        host, _, port = self.bind.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def is_reachable(self) -> bool:
        """Whether other machines could reach the service."""
        return not is_loopback(self.address[0])

    @property
    def shows_docs(self) -> bool:
        """Whether `/docs` is there."""
        return not self.is_reachable if self.docs is None else self.docs

    @property
    def public_address(self) -> str:
        """The address for links, without a slash at the end; without `SPANLOOM_PUBLIC_URL` where it listens."""
        host, port = self.address
        return (self.public_url or f"http://{f'[{host}]' if ':' in host else host}:{port}").rstrip("/")

    @property
    def hosts(self) -> tuple[str, ...]:
        """Host names that requests may use besides the loopback names: the allowed ones, and that of the public URL."""
        public = urlsplit(self.public_url or "").hostname
        return (*self.allowed_hosts, public) if public else self.allowed_hosts

    @property
    def ingest_address(self) -> tuple[str, int]:
        """Host and port to listen on for the Collector."""
        host, _, port = self.ingest_bind.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def providers(self) -> dict[str, ProviderSettings]:
        """How to reach each provider."""
        return {
            "openai": ProviderSettings(self.openai_api_key, self.openai_base_url),
            "anthropic": ProviderSettings(self.anthropic_api_key, self.anthropic_base_url),
            "google": ProviderSettings(self.google_api_key, self.google_base_url),
        }

    @property
    def secrets(self) -> list[str]:
        """Every value that is written nowhere: keys, tokens, and what URLs hold besides the address."""
        found: list[str] = []
        for name, field in Settings.model_fields.items():
            value: object = getattr(self, name)
            for text in [value] if isinstance(value, str) else value if isinstance(value, tuple) else []:
                if "://" in str(text):
                    found += url_secrets(str(text))
                elif not field.repr:
                    found.append(str(text))
        return found

    @property
    def logs_as_json(self) -> bool:
        """Whether logs are JSON; without a setting they are text on a terminal and JSON elsewhere."""
        return not sys.stderr.isatty() if self.log_format is None else self.log_format == "json"

    def trace_link(self, trace_id: str | None) -> str | None:
        """The URL of the trace; None without `SPANLOOM_TRACE_URL` or without a trace."""
        return self.trace_url.replace("{trace_id}", trace_id) if self.trace_url and trace_id else None


def read_settings() -> Settings:
    """The settings of this process. Raises `SettingsInvalid` with a sentence per problem, never with a value."""
    problems = [_misspelt(name) for name in sorted(os.environ) if name.startswith(PREFIX) and name not in _known()]
    if problems:
        raise SettingsInvalid(" ".join(problems))
    try:
        return Settings()
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        raise SettingsInvalid("; ".join(map(_sentence, found))) from None


def _sentence(found: ErrorDetails) -> str:
    """A sentence about an error in one setting, or in several together."""
    message = found["msg"].removeprefix("Value error, ")
    return f"{variable_of(found['loc'])}: {message}" if found["loc"] else message


def prepare_process(settings: Settings) -> None:
    """Set variables that libraries read during their import; call this before LangGraph is imported.

    Then LangGraph runs no code from checkpoints, no payloads go to LangSmith, and Anthropic's client makes no spans.
    The values of secrets are redacted from here on.
    """
    know_secrets(settings.secrets)
    strict = "LANGGRAPH_STRICT_MSGPACK"
    if "langgraph" in sys.modules and os.environ.get(strict, "").lower() not in ("1", "true", "yes"):
        raise SettingsInvalid(f"LangGraph was imported before {strict}=true was set")
    os.environ[strict] = "true"
    os.environ["ANTHROPIC_OPEN_TELEMETRY"] = "false"
    if not settings.langsmith:
        for name in ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING", "LANGCHAIN_TRACING_V2"):
            os.environ[name] = "false"


def check_ingest(settings: Settings) -> None:
    """Raises `SettingsInvalid` if no Collector could deliver signals."""
    if settings.pipeline != "collector":
        raise SettingsInvalid("the role ingest needs SPANLOOM_PIPELINE=collector")
    if not settings.ingest_tokens:
        raise SettingsInvalid(
            "SPANLOOM_PIPELINE=collector needs SPANLOOM_INGEST_TOKENS, the token that the Collector sends; "
            "make one with `openssl rand -hex 32` and give it to the Collector as SPANLOOM_INGEST_TOKEN"
        )
    check_plain_http(settings, f"SPANLOOM_INGEST_BIND={settings.ingest_bind}", settings.ingest_address[0])


def check_plain_http(settings: Settings, place: str, host: str) -> None:
    """Raises `SettingsInvalid` if signals and tokens would cross a network in plain text and no setting allows it."""
    if not (is_loopback(host) or settings.collector_plain_http):
        raise SettingsInvalid(
            f"{place} is plain HTTP beyond this machine, so others could read the token and the signals; "
            "put TLS in between, or set SPANLOOM_COLLECTOR_PLAIN_HTTP=true if the network is yours alone"
        )


def is_loopback(host: str) -> bool:
    """Whether a name or address reaches only this machine."""
    if host.lower().removesuffix(".") == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _known() -> set[str]:
    return {variable_of((name,)) for name in Settings.model_fields} | _OF_TESTS | _OF_THE_COLLECTOR


def variable_of(location: tuple[int | str, ...]) -> str:
    """The environment variable of a field, or of the place of an error."""
    first = str(location[0]) if location else ""
    field = Settings.model_fields.get(first)
    if field is None:
        return first
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return str(alias.choices[0])
    return alias if isinstance(alias, str) else PREFIX + first.upper()


def _misspelt(name: str) -> str:
    near = difflib.get_close_matches(name, sorted(_known() - _OF_TESTS - _OF_THE_COLLECTOR), n=1)
    return f"Unknown setting {name}." + (f" Did you mean {near[0]}?" if near else " .env.example lists all settings.")
