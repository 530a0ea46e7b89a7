"""Scopes: what a key may do. A key does only what its scopes name."""

from collections.abc import Collection, Mapping

ALL = "*"
"""Every scope about what the key's own owner has, of later versions too. Those in `ABOVE_OWNERS` are given by name."""

SCOPES: Mapping[str, str] = {
    "executions:run": "Start and repeat executions of stored workflows",
    "executions:read": "Read executions, their traces, events and scores",
    "executions:cancel": "Cancel executions",
    "executions:approve": "Answer the questions of paused executions",
    "executions:score": "Give executions scores",
    "graphs:run": "Run graphs that come with the request, and change nodes by overrides",
    "content:read": "Read what people and models said",
    "content:delete": "Delete what people and models said",
    "templates:read": "Read templates",
    "templates:write": "Change templates",
    "definitions:read": "Read definitions",
    "definitions:write": "Change definitions",
    "analytics:read": "Read sums over executions",
    "budgets:read": "Read budgets and what is left of them",
    "budgets:write": "Change budgets",
    "webhooks:manage": "Manage webhook endpoints and deliveries",
    "keys:manage": "Manage the keys of this owner",
    "metrics:read": "Read /metrics, which sums up over all owners",
    "ops": "Read the state of the service, and the comparisons of the books of all owners",
    "owners:all": "List the executions of every owner; given on the command line only",
}
"""Every scope, and what it allows."""

ABOVE_OWNERS = frozenset({"metrics:read", "ops", "owners:all"})
"""Scopes that show more than one owner's, which `*` does not include."""

FROM_SHELL_ONLY = frozenset({"owners:all"})
"""Scopes that no request can give to a key."""


def covers(held: Collection[str], scope: str) -> bool:
    """Whether somebody with these scopes may do what needs this one."""
    return scope in held or (ALL in held and scope not in ABOVE_OWNERS)


def exceeding(held: Collection[str], wanted: Collection[str]) -> list[str]:
    """The wanted scopes that somebody with these scopes may not give to a key, in alphabetical order."""
    return sorted(scope for scope in wanted if scope in FROM_SHELL_ONLY or not _may_give(held, scope))


def _may_give(held: Collection[str], scope: str) -> bool:
    if scope == ALL:
        return all(covers(held, each) for each in SCOPES if each not in ABOVE_OWNERS)
    return covers(held, scope)
