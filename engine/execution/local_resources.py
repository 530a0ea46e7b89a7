"""The resources of an engine without a database: models, prices, built-in tools and templates, document search."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from engine.errors import InvalidRequest, MissingExtra
from engine.execution.defaults import BuiltinTemplates, NoConversations, NoDefinitions
from engine.models.pricing import ForeignPrices, GenaiPrices
from engine.models.registry import LangChainModels, ProviderSettings
from engine.resources import AnswerLimits, Prices, Resources, Retriever, Tool
from engine.retrieval.files import FilesRetriever
from engine.retrieval.folders import FoldersRetriever
from engine.tools.builtin import builtin_tools


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalResources(Resources):
    """Resources that hold connections and search indexes. Use them in `async with`, or call `aclose` at the end."""

    providers: LangChainModels
    files: FilesRetriever

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the search indexes and the connections to model providers."""
        self.files.close()
        await self.providers.aclose()


def local_resources(
    model: str | None = None,
    *,
    openai_api_key: str | None = None,
    openai_base_url: str | None = None,
    anthropic_api_key: str | None = None,
    anthropic_base_url: str | None = None,
    google_api_key: str | None = None,
    google_base_url: str | None = None,
    files_roots: Sequence[str | Path] = (),
    tools: Iterable[Tool] = (),
    retrievers: Mapping[str, Retriever] | None = None,
    prices: str | Path | None = None,
    foreign_prices: ForeignPrices = "assume",
    prefer_provider_cost: bool = False,
    answer_limits: AnswerLimits | None = None,
) -> LocalResources:
    """Resources for a script: nothing is stored, and no environment variable is read.

    `model` is `provider:model`: the default of nodes that name no model. Without it the default is the first provider
    with a key or a base URL, else the offline model. Graphs may search the folders in `files_roots`; `tools` and
    `retrievers` come beside the built-in ones and replace those of the same name. `prices` is a JSON file of own
    prices, as for `SPANLOOM_PRICES`; `foreign_prices` and `prefer_provider_cost` mean the same as those settings.
    `answer_limits` bounds what one answer of a model may hold.
    Raises `InvalidRequest` for a `model` that is malformed or cannot be called, `MissingExtra` for a key whose package
    is not installed where no `model` is named, and `InvalidPrices` if the file cannot be read.
    """
    providers = {
        "openai": ProviderSettings(openai_api_key, openai_base_url),
        "anthropic": ProviderSettings(anthropic_api_key, anthropic_base_url),
        "google": ProviderSettings(google_api_key, google_base_url),
    }
    _check(LangChainModels(providers, model), is_named=model is not None)
    return resources_of(
        providers,
        model,
        files_roots=[Path(root) for root in files_roots],
        prices=GenaiPrices(
            None if prices is None else Path(prices),
            foreign=foreign_prices,
            prefer_provider_cost=prefer_provider_cost,
        ),
        tools=tools,
        retrievers=retrievers,
        answer_limits=answer_limits,
    )


def _check(models: LangChainModels, *, is_named: bool) -> None:
    problem = models.misconfigured()
    if problem is not None:
        raise InvalidRequest(problem) if is_named else MissingExtra(problem)


def resources_of(
    providers: Mapping[str, ProviderSettings],
    model: str | None,
    *,
    files_roots: Sequence[Path] = (),
    files_allow: Sequence[str] = (),
    prices: Prices | None = None,
    tools: Iterable[Tool] = (),
    retrievers: Mapping[str, Retriever] | None = None,
    answer_limits: AnswerLimits | None = None,
) -> LocalResources:
    """`local_resources` with the providers as a mapping; the service puts its stores over it.

    If there are `files_roots`, the retriever `default` searches all of them.
    """
    limits = answer_limits or AnswerLimits()
    models = LangChainModels(providers, model, limits)
    files = FilesRetriever(files_roots, allowed=files_allow)
    found: dict[str, Retriever] = {"files": files}
    if files_roots:
        found["default"] = FoldersRetriever(files, files_roots)
    return LocalResources(
        models=models,
        prices=prices or GenaiPrices(),
        tools=builtin_tools() | {tool.spec.name: tool for tool in tools},
        retrievers=found | dict(retrievers or {}),
        templates=BuiltinTemplates(),
        definitions=NoDefinitions(),
        conversations=NoConversations(),
        answer_limits=limits,
        providers=models,
        files=files,
    )
