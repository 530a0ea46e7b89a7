"""Which models can be called here: the providers, their keys and addresses, and the default.

LangChain and the providers' packages are imported when the first model is asked for, so that commands which call none
start at once.
"""

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast
from urllib.parse import urlsplit

from engine.errors import InvalidRequest, MissingExtra, ResourceMissing
from engine.models.offline import OFFLINE, OfflineModel
from engine.resources import ChatModel

if TYPE_CHECKING:
    from engine.models.langchain import LangChainModel

MAX_CLIENTS = 64
"""Models kept ready; beyond it the one made first goes."""

_NO_KEY = "none"
"""What a server of one's own gets in place of a key: the clients refuse to send nothing."""


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """How to reach one provider; null means no key, and the provider's own address."""

    api_key: str | None = field(default=None, repr=False)
    base_url: str | None = None

    @property
    def is_set(self) -> bool:
        """There is a key, or a server of one's own, which may need none."""
        return bool(self.api_key or self.base_url)


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider we can call: its package, its own address, the model it is asked for when none is named."""

    name: str
    """As in graphs and `SPANLOOM_MODEL`; also the name of the extra."""
    semconv_name: str
    """As `gen_ai.provider.name`."""
    package: str
    module: str
    """The module of ours that builds its models, and imports its package."""
    key_variable: str
    address: str
    default_model: str

    @property
    def is_installed(self) -> bool:
        """The package of its extra is there."""
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
        ),
        Provider(
            "anthropic",
            "anthropic",
            "langchain_anthropic",
            "engine.models.anthropic",
            "ANTHROPIC_API_KEY",
            "https://api.anthropic.com",
            "claude-haiku-4-5",
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
"""In the order in which they are looked at for a default model."""


class _Module(Protocol):
    def build(
        self, model: str, *, provider: str, api_key: str, base_url: str, server_address: str | None
    ) -> "LangChainModel": ...


class LangChainModels:
    """Models of OpenAI, Anthropic, Google (each an extra) and the offline one.

    `settings` is keyed by provider: `openai`, `anthropic`, `google`. `default` is `provider:model` (`SPANLOOM_MODEL`).
    """

    def __init__(self, settings: Mapping[str, ProviderSettings] | None = None, default: str | None = None) -> None:
        self._settings = dict(settings or {})
        self._named_default = _parse(default) if default else None
        self._offline = OfflineModel()
        self._models: dict[tuple[str, str], LangChainModel] = {}

    def default(self) -> tuple[str, str] | None:
        """The named default, else the first provider that has a key and is installed, else the offline model."""
        if self._named_default is not None:
            return self._named_default
        for provider in PROVIDERS.values():
            if self._reach(provider).is_set and provider.is_installed:
                return provider.name, provider.default_model
        return OFFLINE

    def get(self, provider: str, model: str) -> ChatModel:
        """The model, made once. Raises `MissingExtra` with the install command, or `ResourceMissing`."""
        if (provider, model) == OFFLINE:
            return self._offline
        known = self._models.get((provider, model))
        return known if known is not None else self._make(provider, model)

    def problem(self, provider: str, model: str) -> str | None:
        """Why the model cannot be called here, as a sentence with what to do; null if it can."""
        if provider == OFFLINE[0]:
            return None if model == OFFLINE[1] else f"provider offline has one model, {OFFLINE[1]}"
        known = PROVIDERS.get(provider)
        if known is None:
            return f"provider {provider!r} is not known; use one of {', '.join([*PROVIDERS, OFFLINE[0]])}"
        if not model:
            return f"no model of {provider} is named; try {known.default_model}"
        if not known.is_installed:
            return _install(known)
        if not self._reach(known).is_set:
            return f"there is no key for {provider}; set {known.key_variable}, or use {':'.join(OFFLINE)} without one"
        return None

    async def aclose(self) -> None:
        """Close the connections of every model made here."""
        models, self._models = self._models, {}
        for model in models.values():
            await model.aclose()

    def _make(self, provider: str, model: str) -> "LangChainModel":
        if problem := self.problem(provider, model):
            missing = provider in PROVIDERS and not PROVIDERS[provider].is_installed
            raise MissingExtra(problem) if missing else ResourceMissing(problem)
        known = PROVIDERS[provider]
        made = _build(known, model, self._reach(known))
        if len(self._models) >= MAX_CLIENTS:
            del self._models[next(iter(self._models))]
        self._models[provider, model] = made
        return made

    def _reach(self, provider: Provider) -> ProviderSettings:
        return self._settings.get(provider.name, ProviderSettings())


def _build(provider: Provider, model: str, reach: ProviderSettings) -> "LangChainModel":
    module = cast("_Module", importlib.import_module(provider.module))
    base_url = reach.base_url or provider.address
    return module.build(
        model,
        provider=provider.semconv_name,
        api_key=reach.api_key or _NO_KEY,
        base_url=base_url,
        server_address=urlsplit(base_url).hostname,
    )


def _parse(default: str) -> tuple[str, str]:
    provider, separator, model = default.partition(":")
    if not (provider and separator and model):
        raise InvalidRequest(f"the default model {default!r} is not written as provider:model")
    return provider, model


def _install(provider: Provider) -> str:
    return f"the package for {provider.name} is not installed: pip install 'spanloom[{provider.name}]'"
