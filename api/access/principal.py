"""Who asks, and how a request is refused by who asks."""

from dataclasses import dataclass

from api.access.scopes import SCOPES, covers
from engine.errors import Refusal

OWNER_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@|+-]{0,127}$"
"""What the name of an owner can be."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The sender of a request: every query is limited to what its owner has, every route to its scopes."""

    owner: str
    key_id: str | None = None
    """The id of the API key, or `jwt:` and a digest of the subject of a token; null without either."""
    key_name: str | None = None
    scopes: frozenset[str] = frozenset()

    def may(self, scope: str) -> bool:
        """Whether the principal has this scope."""
        return covers(self.scopes, scope)


OPEN = Principal("default", scopes=frozenset(SCOPES))
"""The caller of a service that listens on a loopback address and has no keys yet: the user of this machine."""


class Unauthenticated(Refusal):
    """Send an API key as `Authorization: Bearer spl_…`. `spanloom keys create` makes one."""

    code = "unauthenticated"

    def __init__(self, message: str | None = None, *, is_invalid: bool = False) -> None:
        super().__init__(message)
        self.is_invalid = is_invalid
        """Whether a key or token was sent, but is none that counts."""


class MissingScope(Refusal):
    """The key lacks a scope that this request needs."""

    code = "missing_scope"

    def __init__(self, scope: str) -> None:
        super().__init__(f"This needs the scope {scope}, which the key does not have. Use a key that has it.")
        self.scope = scope


class ScopeExceeded(Refusal):
    """A key can only create keys with scopes that it has itself."""

    code = "scope_exceeded"
