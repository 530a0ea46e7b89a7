"""`spanloom keys`: keys of every owner, from a shell."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from tests.api.cli.shell import Shell

MINE = ("keys", "create", "--owner", "ann", "--name", "laptop", "--scope")


def test_a_key_is_created_shown_once_listed_and_revoked(shell: Shell) -> None:
    made = shell.run(*MINE, "*")
    assert made.returncode == 0, made.stderr
    [text] = re.findall(r"shown only once: (spl_[A-Za-z0-9]{12}_[A-Za-z0-9]{43})\n", made.stdout)
    key_id = text[4:16]
    listed = shell.run("keys", "list")
    assert key_id in listed.stdout
    assert "ann" in listed.stdout
    assert text[-43:] not in listed.stdout
    revoked = shell.run("keys", "revoke", key_id)
    assert revoked.stdout.startswith(f"Revoked key {key_id} (laptop of ann).")
    [item] = shell.json("keys", "list")["items"]
    assert (item["id"], item["status"]) == (key_id, "revoked")


def test_json_prints_the_documents_of_the_api(shell: Shell) -> None:
    made = shell.json(*MINE, "executions:read", "--expires", "90d")
    assert made["key"].startswith(f"spl_{made['id']}_")
    expires_in = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=89, hours=23) < expires_in <= timedelta(days=90)
    [item] = shell.json("keys", "list")["items"]
    assert item == {name: value for name, value in made.items() if name != "key"}
    assert shell.json("keys", "revoke", made["id"])["status"] == "revoked"


def test_a_list_of_one_owner(shell: Shell) -> None:
    shell.json(*MINE, "*")
    shell.json("keys", "create", "--owner", "bob", "--name", "ci", "--scope", "executions:run")
    assert [item["owner"] for item in shell.json("keys", "list", "--owner", "bob")["items"]] == ["bob"]
    assert len(shell.json("keys", "list")["items"]) == 2


def test_only_the_shell_gives_a_key_all_owners(shell: Shell) -> None:
    assert shell.json(*MINE, "owners:all", "--scope", "executions:read")["scopes"] == ["executions:read", "owners:all"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*MINE, "executions:fly"], "Unknown scope 'executions:fly'. Valid scopes: executions:run"),
        ([*MINE, "*", "--expires", "soon"], "Cannot read --expires 'soon'. Write 90d"),
        ([*MINE, "*", "--expires", "2020-01-01"], "would have expired already"),
        (["keys", "create", "--owner", "a b", "--name", "x", "--scope", "*"], "Cannot use the owner 'a b'"),
        (["keys", "create", "--owner", "ann", "--name", "\x1b[31m", "--scope", "*"], "Cannot use the name"),
    ],
)
def test_wrong_use_is_said(shell: Shell, arguments: list[str], said: str) -> None:
    done = shell.run(*arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_an_unknown_key_is_not_revoked(shell: Shell) -> None:
    shell.json(*MINE, "*")
    done = shell.run("keys", "revoke", "zzzzzzzzzzzz")
    assert (done.returncode, done.stderr) == (4, "spanloom: Not found: there is no key zzzzzzzzzzzz\n")


def test_doctor_says_whether_there_are_keys(shell: Shell) -> None:
    assert shell.ask().returncode == 0
    assert "none: every program on this machine is owner `default`" in shell.run("doctor").stdout
    key_id = shell.json(*MINE, "*")["id"]
    assert "1 key valid, 0 expired or revoked; every request needs one" in shell.run("doctor").stdout
    shell.json("keys", "revoke", key_id)
    assert "0 keys valid, 1 expired or revoked" in shell.run("doctor").stdout


def test_doctor_says_what_is_missing_before_others_are_let_in(shell: Shell) -> None:
    assert shell.ask().returncode == 0
    done = shell.run("doctor", SPANLOOM_BIND="0.0.0.0:0")
    assert done.returncode == 3
    assert "no API key, so nobody could use it; create one: spanloom keys create" in done.stdout.replace("\n", " ")
    shell.json(*MINE, "*")
    assert shell.run("doctor", SPANLOOM_BIND="0.0.0.0:0").returncode == 0
