"""The stores of an engine without a database: the built-in templates, no definitions and no conversations."""

from engine.resources import Definition, History, Template
from engine.templates.template import load_builtin


class BuiltinTemplates:
    """`engine.resources.Templates` over the package's own files; each template has one version."""

    async def find(self, key_or_id: str, version: int | None, owner: str) -> Template | None:
        """Find a template by key or id."""
        found = (template for template in load_builtin() if key_or_id in (template.key, template.id))
        template = next(found, None)
        return template if template and version in (None, template.version) else None


class NoDefinitions:
    """`engine.resources.Definitions` without a store."""

    async def find(self, slug_or_id: str, version: int | None, owner: str) -> Definition | None:
        """Return null: there are no definitions."""
        return None


class NoConversations:
    """`engine.resources.Conversations` without a store: every chat starts a new conversation."""

    async def history(
        self, conversation_id: str, owner: str, limit: int, *, before: str | None = None
    ) -> History | None:
        """Return null: there are no conversations."""
        return None
