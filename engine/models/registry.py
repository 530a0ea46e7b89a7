"""The registry of language models: providers with their keys and addresses, and the default model.

LangChain and the providers' packages are imported when a model is first requested, so that commands without model
calls start quickly.
"""

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast
from urllib.parse import urlsplit

from engine.errors import InvalidRequest, MissingExtra, ResourceMissing
from engine.models.offline import OFFLINE, OfflineModel
from engine.resources import AnswerLimits, ChatModel, Server

if TYPE_CHECKING:
    from engine.models.langchain import LangChainModel

MAX_CLIENTS = 64
"""Maximum number of cached models; the oldest is dropped first."""

_NO_KEY = "none"
"""Placeholder key for a custom server that needs none: the clients refuse to send requests without a key."""


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """Key and address of one provider. Null means no key, or the provider's public address."""

    api_key: str | None = field(default=None, repr=False)
    base_url: str | None = None

    @property
    def is_set(self) -> bool:
        """Whether there is a key or a custom server, which may need no key."""
        return bool(self.api_key or self.base_url)


@dataclass(frozen=True, slots=True)
class Provider:
    """A supported provider, with its package, public address and default model."""

    name: str
    """The name in graphs, in `SPANLOOM_MODEL` and of the extra."""
    semconv_name: str
    """The value of the span attribute `gen_ai.provider.name`."""
    package: str
    module: str
    """The spanloom module that imports the package and builds the models."""
    key_variable: str
    address: str
    default_model: str
    service_tiers: frozenset[str] = frozenset()
    """The tiers that a request may ask for."""

    @property
    def is_installed(self) -> bool:
        """Whether the package of its extra is installed."""
        return importlib.util.find_spec(self.package) is not None


PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider(
            "openai",
            "openai",
            "langchain_openai",
            "engine.models.openai",
            "OPENAI_API_KEY",
            "https://api.openai.com/v1",
            "gpt-4.1-mini",
            frozenset({"auto", "default", "flex", "priority"}),
        ),
        Provider(
            "anthropic",
            "anthropic",
            "langchain_anthropic",
            "engine.models.anthropic",
            "ANTHROPIC_API_KEY",
            "https://api.anthropic.com",
            "claude-haiku-4-5",
            frozenset({"auto", "default"}),
        ),
        Provider(
            "google",
            "gcp.gemini",
            "langchain_google_genai",
            "engine.models.google",
            "GOOGLE_API_KEY",
            "https://generativelanguage.googleapis.com",
            "gemini-2.5-flash",
        ),
    )
}
"""All supported providers, in the order in which they are considered for the default model."""


class _Module(Protocol):
    def build(
        self,
        model: str,
        *,
        provider: str,
        api_key: str,
        base_url: str,
        limits: AnswerLimits,
    ) -> "LangChainModel": ...


class LangChainModels:
    """The models of OpenAI, Anthropic and Google (each needs its extra), and the offline model.

    `settings` is keyed by provider: `openai`, `anthropic`, `google`. `default` is `provider:model` (`SPANLOOM_MODEL`).
    """

    def __init__(
        self,
        settings: Mapping[str, ProviderSettings] | None = None,
        default: str | None = None,
        limits: AnswerLimits | None = None,
    ) -> None:
        self._settings = dict(settings or {})
        self._limits = limits or AnswerLimits()
        self._named_default = _parse(default) if default else None
        self._offline = OfflineModel()
        self._models: dict[tuple[str, str], LangChainModel] = {}

    def default(self) -> tuple[str, str] | None:
        """The configured default, else that of the first provider with a key or server, else the offline model.

        Providers that are installed come first. The offline model is the default only where no provider is set.
        """
        if self._named_default is not None:
            return self._named_default
        is_set = [provider for provider in PROVIDERS.values() if self._settings_of(provider).is_set]
        chosen = next((provider for provider in is_set if provider.is_installed), next(iter(is_set), None))
        return OFFLINE if chosen is None else (chosen.name, chosen.default_model)

    def misconfigured(self) -> str | None:
        """Why the settings cannot mean what they say, with the next step, as a sentence; null if they can.

        A default model that cannot be called, or without one a key whose package is not installed.
        """
        if self._named_default is not None:
            problem = self.problem(*self._named_default)
            return problem and f"the default model {':'.join(self._named_default)} cannot be called: {problem}"
        for provider in PROVIDERS.values():
            if self._settings_of(provider).is_set and not provider.is_installed:
                return f"{provider.name} has a key or an address, but {_install_hint(provider)}"
        return None

    def get(self, provider: str, model: str) -> ChatModel:
        """The model; it is built on first use. Raises `MissingExtra` with the install command, or `ResourceMissing`."""
        if (provider, model) == OFFLINE:
            return self._offline
        known = self._models.get((provider, model))
        return known if known is not None else self._make(provider, model)

    def problem(self, provider: str, model: str) -> str | None:
        """The reason why the model cannot be called, with the next step; null if it can be called."""
        if provider == OFFLINE[0]:
            return None if model == OFFLINE[1] else f"the provider offline has only the model {OFFLINE[1]}"
        known = PROVIDERS.get(provider)
        if known is None:
            return f"there is no provider {provider!r}; use one of {', '.join([*PROVIDERS, OFFLINE[0]])}"
        if not model:
            return f"the model of {provider} is not named; name one, for example {known.default_model}"
        if not known.is_installed:
            return _install_hint(known)
        if not self._settings_of(known).is_set:
            return f"there is no API key for {provider}; set {known.key_variable}, or use {':'.join(OFFLINE)}"
        return None

    def server(self, provider: str) -> Server:
        """The host of the provider's address, or of the configured one, and the service tiers that it takes."""
        known = PROVIDERS.get(provider)
        if known is None:
            return Server()
        return Server(urlsplit(self._settings_of(known).base_url or known.address).hostname, known.service_tiers)

    async def aclose(self) -> None:
        """Close the connections of all models built so far."""
        models, self._models = self._models, {}
        for model in models.values():
            await model.aclose()

    def _make(self, provider: str, model: str) -> "LangChainModel":
        if problem := self.problem(provider, model):
            missing = provider in PROVIDERS and not PROVIDERS[provider].is_installed
            raise MissingExtra(problem) if missing else ResourceMissing(problem)
        known = PROVIDERS[provider]
        made = _build(known, model, self._settings_of(known), self._limits)
        if len(self._models) >= MAX_CLIENTS:
            del self._models[next(iter(self._models))]
        self._models[provider, model] = made
        return made

    def _settings_of(self, provider: Provider) -> ProviderSettings:
        return self._settings.get(provider.name, ProviderSettings())


def _build(provider: Provider, model: str, settings: ProviderSettings, limits: AnswerLimits) -> "LangChainModel":
    module = cast("_Module", importlib.import_module(provider.module))
    return module.build(
        model,
        provider=provider.semconv_name,
        api_key=settings.api_key or _NO_KEY,
        base_url=settings.base_url or provider.address,
        limits=limits,
    )


def _parse(default: str) -> tuple[str, str]:
    provider, separator, model = default.partition(":")
    if not (provider and separator and model):
        raise InvalidRequest(f"the default model {default!r} must be written as provider:model")
    return provider, model


def _install_hint(provider: Provider) -> str:
    return f"the package for {provider.name} is not installed: pip install 'spanloom[{provider.name}]'"
