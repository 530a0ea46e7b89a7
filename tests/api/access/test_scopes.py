"""What scopes cover, and which of them a key can give to another."""

import pytest

from api.access.scopes import ABOVE_OWNERS, ALL, FROM_SHELL_ONLY, SCOPES, covers, exceeding


@pytest.mark.parametrize("scope", SCOPES)
def test_a_scope_covers_itself_only_and_the_star_all_of_the_owner(scope: str) -> None:
    assert [each for each in SCOPES if covers({scope}, each)] == [scope]
    assert covers({ALL}, scope) == (scope not in ABOVE_OWNERS)
    assert not covers(set(), scope)


@pytest.mark.parametrize(
    ("held", "wanted", "exceeded"),
    [
        (["executions:read"], ["executions:read"], []),
        (["executions:read"], ["executions:run", "executions:read"], ["executions:run"]),
        (["executions:read"], [ALL], [ALL]),
        ([ALL], [ALL], []),
        ([ALL], ["ops", "metrics:read", "content:read"], ["metrics:read", "ops"]),
        ([*SCOPES], [ALL], []),
        ([*SCOPES], [*SCOPES], sorted(FROM_SHELL_ONLY)),
    ],
)
def test_a_key_gives_what_it_has(held: list[str], wanted: list[str], exceeded: list[str]) -> None:
    assert exceeding(held, wanted) == exceeded
