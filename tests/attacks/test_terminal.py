"""Texts of strangers on a terminal: answers, errors, questions, reasons, tags and names are shown and never obeyed."""

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from engine.graph import Json, JsonObject
from tests.api.cli.shell import Shell
from tests.attacks.model_server import provider
from tests.attacks.pseudo_terminal import ATTACK, ATTACKS, MARK, obeyed, run_on_terminal

QUESTION: JsonObject = {
    "schema": "spanloom/1",
    "name": f"asks {ATTACK}"[:100],
    "nodes": [
        {"id": "start", "type": "start"},
        {"id": "ask", "type": "approval", "config": {"prompt": "{{ input.message }}", "choices": ["yes", "no"]}},
        {"id": "end", "type": "end"},
    ],
    "edges": [
        {"source": "start", "target": "ask"},
        {"source": "ask", "target": "end", "when": "yes"},
        {"source": "ask", "target": "end", "when": "no"},
    ],
}


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A folder of its own."""
    return Shell(tmp_path)


def ask(shell: Shell, address: str, *more: str) -> tuple[int, str]:
    """Run a chat on a terminal, with the model server at this address."""
    chat = ("run", "universal_chat", "-m", "hi", *more)
    return run_on_terminal(shell.folder, *chat, OPENAI_API_KEY="sk-test", OPENAI_BASE_URL=address)


def test_an_answer_is_shown_and_not_obeyed(shell: Shell) -> None:
    with provider(list(ATTACK.replace("\n", " "))) as address:  # each escape sequence arrives in many pieces
        code, shown = ask(shell, address)
    assert code == 0, shown
    assert obeyed(shown) == []
    assert r"\x1b]0;EVIL\x07" in shown
    assert "[bold]EVIL[/bold]" in shown
    assert ":smile:" in shown


def test_an_answer_keeps_its_lines_and_what_scripts_need(shell: Shell) -> None:
    answer = "one\r\ntwo\n\tthree مرحبا می‌خواهم 👩‍💻\r"
    with provider([answer[:4], answer[4:]]) as address:  # the line break is cut in two
        code, shown = ask(shell, address, "--quiet")
    assert code == 0, shown
    assert shown.split("\r\n")[:2] == ["one", "two"]
    assert "three مرحبا می‌خواهم 👩‍💻" in shown


def test_a_refusal_of_the_provider_is_shown_and_not_obeyed(shell: Shell) -> None:
    with provider([ATTACK], status=400) as address:
        code, shown = ask(shell, address)
    assert code == 1, shown
    assert obeyed(shown) == []
    assert r"\x1b]0;EVIL\x07" in shown


def test_json_is_exact_and_nothing_in_it_is_obeyed(shell: Shell) -> None:
    with provider([ATTACK]) as address:
        code, shown = ask(shell, address, "--json", "--quiet")
    assert code == 0, shown
    assert obeyed(shown) == []
    assert json.loads(shown)["response"] == ATTACK


def test_a_question_a_reason_and_a_name_are_shown_and_not_obeyed(shell: Shell) -> None:
    (shell.folder / "ask.json").write_text(json.dumps(QUESTION))
    code, shown = run_on_terminal(shell.folder, "run", "ask.json", "-m", ATTACK.replace("\0", ""))
    assert code == 1, shown
    assert obeyed(shown) == []
    assert "Question: " in shown
    for command in (
        ("executions", "cancel", "last", "--reason", ATTACK.replace("\0", "")),
        ("executions", "show", "last"),
    ):
        _, shown = run_on_terminal(shell.folder, *command)
        assert obeyed(shown) == []


def test_files_and_their_names_are_shown_and_not_obeyed(shell: Shell) -> None:
    names = [f"a{attack}.json".replace("/", "_").replace("\0", "") for attack in ATTACKS]
    for name, attack in zip(names, (attack.replace("\0", "") for attack in ATTACKS), strict=True):
        node = {"id": attack, "type": attack, "config": {attack: attack}}
        graph = {"schema": "spanloom/1", "nodes": [node], "edges": [], attack: 1}
        (shell.folder / name).write_text(json.dumps(graph))
    code, shown = run_on_terminal(shell.folder, "validate", *names)
    assert (code, obeyed(shown)) == (1, [])
    assert shown.count(MARK) > 3 * len(names)


@pytest.mark.parametrize("arguments", [("validate", "{}.json"), ("run", "{}.json"), ("run", "{}"), ("trace", "{}")])
def test_what_is_not_there_is_named_and_not_obeyed(shell: Shell, arguments: tuple[str, ...]) -> None:
    name = ATTACK.replace("\0", "")
    code, shown = run_on_terminal(shell.folder, *(argument.format(name) for argument in arguments))
    assert code in (1, 2, 3, 4), shown
    assert obeyed(shown) == []


def test_a_name_that_is_no_unicode_is_shown_in_text_and_json(shell: Shell) -> None:
    name = os.fsdecode(b"a\xff.json")
    (shell.folder / name).write_text("{}")
    code, shown = run_on_terminal(shell.folder, "validate", name)
    assert (code, obeyed(shown)) == (1, [])
    assert r"a\udcff.json" in shown
    code, shown = run_on_terminal(shell.folder, "validate", name, "--json")
    assert (code, json.loads(shown)["items"][0]["file"]) == (1, name)


COMMANDS = (
    ("executions",),
    ("executions", "show", "last"),
    ("trace", "last"),
    ("trace", "last", "--follow"),
    ("cost",),
    ("cost", "--by", "model"),
    ("webhooks", "list"),
    ("webhooks", "deliveries"),
    ("dead-letters",),
    ("reconcile",),
)


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose database has the attacks in each text that is no key and no word of a closed list."""
    folder = tmp_path_factory.mktemp("poisoned")
    shell = Shell(folder)
    assert shell.ask().returncode == 0
    add = ("webhooks", "add", "https://127.0.0.1/a")
    assert shell.run(*add, SPANLOOM_EGRESS_ALLOW="127.0.0.0/8").returncode == 0
    endpoint = shell.json("webhooks", "list")["items"][0]["id"]
    shell.run("webhooks", "test", endpoint)
    with closing(sqlite3.connect(folder / "spanloom.db")) as database, database:
        _poison(database)
    return folder


def _poison(database: sqlite3.Connection) -> None:
    texts = {
        "executions": ("workflow_name", "error_type", "error_message", "error_node_id", "cancel_reason", "trigger"),
        "spans": ("name", "error_type"),
        "webhook_endpoints": ("url", "description"),
        "webhook_deliveries": ("last_error", "event_type"),
    }
    for table, columns in texts.items():
        for column in columns:
            database.execute(f"UPDATE {table} SET {column} = ?", (ATTACK,))
    documents = json.dumps({ATTACK: ATTACK})
    database.execute("UPDATE executions SET tags = ?, params = ?, correlation_id = ?", (documents, documents, ATTACK))
    for table in ("execution_rollups", "execution_rollups_daily"):
        database.execute(f"UPDATE {table} SET workflow_name = ?, template_id = ?", (ATTACK, ATTACK))
        database.execute(f"UPDATE {table} SET model = ? WHERE model != ''", (ATTACK,))
    letter = ("id", "consumer", "{}", ATTACK, "2026-01-01 00:00:00.000000", 9, None)
    database.execute(
        "INSERT INTO dead_letter (id, consumer, signal, reason, at, tries, due_at) VALUES (?, ?, ?, ?, ?, ?, ?)", letter
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_what_is_stored_is_shown_and_not_obeyed(poisoned: Path, command: tuple[str, ...]) -> None:
    _, shown = run_on_terminal(poisoned, *command)
    assert obeyed(shown) == []
    assert MARK in shown


@pytest.mark.parametrize("command", [("executions", "show", "last"), ("dead-letters",)], ids=" ".join)
def test_what_is_stored_is_exact_as_json(poisoned: Path, command: tuple[str, ...]) -> None:
    _, shown = run_on_terminal(poisoned, *command, "--json")
    assert obeyed(shown) == []
    assert ATTACK in texts_in(json.loads(shown))


def texts_in(document: Json) -> list[str]:
    """Every text that is a value of the document."""
    if isinstance(document, dict):
        return [text for value in document.values() for text in texts_in(value)]
    if isinstance(document, list):
        return [text for value in document for text in texts_in(value)]
    return [document] if isinstance(document, str) else []


def test_help_has_no_control_characters(tmp_path: Path) -> None:
    code, shown = run_on_terminal(tmp_path, "run", "--help")
    assert (code, obeyed(shown)) == (0, [])
    assert "Usage: spanloom run" in shown
