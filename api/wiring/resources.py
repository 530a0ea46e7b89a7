"""Builds what workflows may use: models, prices, tools, retrievers, and what is stored for them."""

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from api.settings import Settings
from api.wiring.shutdown import CLOSE_SECONDS, within
from engine.database.database import Database

if TYPE_CHECKING:
    from engine.resources import Models, Resources


async def store_builtin_templates(database: Database) -> None:
    """Write the built-in templates of this version into the database."""
    from engine.store.templates import sync_builtin
    from engine.templates.template import load_builtin

    async with database.begin() as connection:
        await sync_builtin(connection, load_builtin())


def build_resources(
    settings: Settings, database: Database, stack: AsyncExitStack, *, models: "Models | None" = None
) -> "Resources":
    """The resources of executions; `models` replace the providers'. The stack closes what was opened."""
    from engine.retrieval.folders import ConfiguredFolders
    from engine.models.pricing import GenaiPrices
    from engine.resources import Resources
    from engine.retrieval.files import FilesRetriever
    from engine.store.checkpoints import problem
    from engine.store.conversations import StoredConversations
    from engine.store.definitions import StoredDefinitions
    from engine.store.templates import StoredTemplates
    from engine.tools.builtin import builtin_tools

    if models is None:
        models = _build_models(settings, stack)
    files = FilesRetriever(settings.files_roots)
    stack.callback(files.close)
    default = {"default": ConfiguredFolders(files, settings.files_roots)} if settings.files_roots else {}
    return Resources(
        models=models,
        prices=GenaiPrices(settings.prices),
        tools=builtin_tools(),
        retrievers={"files": files, **default},
        templates=StoredTemplates(database),
        definitions=StoredDefinitions(database),
        conversations=StoredConversations(database),
        no_checkpoints=problem(settings.database_url),
    )


def _build_models(settings: Settings, stack: AsyncExitStack) -> "Models":
    from engine.models.registry import LangChainModels

    models = LangChainModels(settings.providers, settings.model)
    stack.push_async_callback(within, CLOSE_SECONDS, "the providers' clients", models.aclose)
    return models
