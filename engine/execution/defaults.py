"""What an engine without a database finds stored: the built-in templates, and nothing else."""

from engine.resources import Definition, History, Template
from engine.templates.template import load_builtin


class BuiltinTemplates:
    """`engine.resources.Templates` over the files of the package; each has one version."""

    async def find(self, key_or_id: str, version: int | None, owner: str) -> Template | None:
        """By key or id."""
        found = (template for template in load_builtin() if key_or_id in (template.key, template.id))
        template = next(found, None)
        return template if template and version in (None, template.version) else None


class NoDefinitions:
    """`engine.resources.Definitions` without a store."""

    async def find(self, slug_or_id: str, version: int | None, owner: str) -> Definition | None:
        """Nothing is stored."""
        return None


class NoConversations:
    """`engine.resources.Conversations` without a store: every chat is a new one."""

    async def history(
        self, conversation_id: str, owner: str, limit: int, *, before: str | None = None
    ) -> History | None:
        """Nothing is stored."""
        return None
