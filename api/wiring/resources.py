"""Builds the resources of workflows: models, prices, tools, retrievers, and stored templates and conversations."""

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from api.settings import Settings, SettingsInvalid
from api.wiring.shutdown import CLOSE_SECONDS, within
from engine.database.database import Database

if TYPE_CHECKING:
    from engine.models.pricing import GenaiPrices
    from engine.resources import Models, Resources


def build_prices(settings: Settings) -> "GenaiPrices":
    """The prices of model calls. Raises `InvalidPrices` if the file of own prices cannot be used."""
    from engine.models.pricing import GenaiPrices

    return GenaiPrices(
        settings.prices, foreign=settings.foreign_prices, prefer_provider_cost=settings.prefer_provider_cost
    )


async def store_builtin_templates(database: Database) -> None:
    """Write the built-in templates of this version into the database."""
    from engine.store.templates import sync_builtin
    from engine.templates.template import load_builtin

    async with database.begin() as connection:
        await sync_builtin(connection, load_builtin())


def build_resources(
    settings: Settings, database: Database, stack: AsyncExitStack, *, models: "Models | None" = None
) -> "Resources":
    """The resources of executions; `models` replace the providers'. The stack closes them.

    Raises `SettingsInvalid` if the settings mean a model that cannot be called: no demo answers in its place.
    """
    from engine.execution.local_resources import resources_of
    from engine.resources import AnswerLimits
    from engine.store.checkpoints import problem
    from engine.store.conversations import StoredConversations
    from engine.store.definitions import StoredDefinitions
    from engine.store.templates import StoredTemplates

    local = resources_of(
        settings.providers,
        settings.model,
        files_roots=settings.files_roots,
        files_allow=settings.files_allow,
        prices=build_prices(settings),
        answer_limits=AnswerLimits(settings.max_answer_bytes, settings.max_answer_calls),
    )
    stack.push_async_callback(within, CLOSE_SECONDS, "the providers' clients", local.aclose)
    wrong = local.providers.misconfigured() if models is None else None
    if wrong is not None:
        raise SettingsInvalid(f"{wrong}; SPANLOOM_MODEL names the default model, and `spanloom doctor` checks all")
    return replace(
        local,
        models=models or local.models,
        templates=StoredTemplates(database),
        definitions=StoredDefinitions(database),
        conversations=StoredConversations(database),
        no_checkpoints=problem(settings.database_url),
    )
