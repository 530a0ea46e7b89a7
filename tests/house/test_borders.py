"""Which files may import which modules. Ruff and import-linter check most of it; these tests check it file by file."""

import ast
from collections.abc import Iterator

import pytest

from tests.house.lock import ROOT
from tests.house.sources import PACKAGES, sources

# What is imported or named -> the files and folders that may.
ALLOWED = {
    "langgraph": (
        "engine/interpreter/langgraph.py",
        "engine/store/checkpoints.py",
        "engine/store/langgraph_private.py",
    ),
    "opentelemetry.sdk": ("telemetry/",),
    "opentelemetry.sdk._logs": ("telemetry/sdk/internals.py",),
    "opentelemetry.exporter": ("telemetry/",),
    "opentelemetry.exporter.otlp.proto.grpc._log_exporter": ("telemetry/sdk/internals.py",),
    "opentelemetry.exporter.otlp.proto.http._log_exporter": ("telemetry/sdk/internals.py",),
    "opentelemetry.proto": ("telemetry/",),
    "opentelemetry.semconv._incubating": (),
    "opentelemetry.instrumentation": (),
    "os.environ": ("api/settings.py", "telemetry/sdk/naming.py", "telemetry/sdk/providers.py"),
    "os.getenv": ("api/settings.py", "telemetry/sdk/providers.py"),
    "litellm": (),
    "sse_starlette": (),
    "httpx": (),
    "requests": (),
    "aiohttp": (),
    "tiktoken": (),
    "pickle": (),
    "langchain_core.load": (),
    "eval": (),
    "exec": (),
}


@pytest.mark.parametrize(("name", "homes"), ALLOWED.items())
def test_a_guarded_name_is_used_in_its_homes_only(name: str, homes: tuple[str, ...]) -> None:
    users = {file for file in sources() if _uses(name, (ROOT / file).read_text())}
    assert {file for file in users if not file.startswith(homes or ("nowhere/",))} == set()


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.environ['A']",
        "from os import environ",
        "import os as system\nsystem.environ",
        "def f():\n    from os import environ as e",
    ],
)
def test_every_way_to_name_it_is_seen(source: str) -> None:
    assert _uses("os.environ", source)


@pytest.mark.parametrize("source", ["import httpx2", "from httpx2 import Client", "x = 'import httpx'", "a.httpx"])
def test_a_similar_name_is_allowed(source: str) -> None:
    assert not _uses("httpx", source)


NODE_MODULES_FOR_OTHERS = {"base", "registry"}


def test_validation_and_interpreter_know_no_node_type_by_name() -> None:
    rooms = ("engine/validation/", "engine/interpreter/")
    files = [file for file in sources() if file.startswith(rooms)]
    assert {file: found for file in files if (found := _node_types((ROOT / file).read_text()))} == {}


@pytest.mark.parametrize(
    "source",
    ["from engine.nodes.model import ModelConfig", "from engine.nodes import model", "import engine.nodes.loop"],
)
def test_every_import_of_a_node_type_is_seen(source: str) -> None:
    assert _node_types(source)
    assert not _node_types("from engine.nodes.base import NodeBase\nfrom engine.nodes.registry import NODE_TYPES")


def _node_types(source: str) -> set[str]:
    """The modules of node types that a source imports."""
    paths = (name.split(".") for name in _names(ast.parse(source)) if name.startswith("engine.nodes."))
    return {path[2] for path in paths} - NODE_MODULES_FOR_OTHERS


LANGGRAPH_PRIVATE = {
    "langgraph.checkpoint.serde._msgpack",
    "langgraph.checkpoint.serde._msgpack.STRICT_MSGPACK_ENABLED",
    "langgraph.pregel._write.ChannelWriteEntry",
}


def test_no_other_module_imports_a_private_name_of_langgraph() -> None:
    found = {file: _private_of_langgraph((ROOT / file).read_text()) for file in sources()}
    assert {file: names for file, names in found.items() if names} == {
        "engine/store/langgraph_private.py": LANGGRAPH_PRIVATE
    }


def _private_of_langgraph(source: str) -> set[str]:
    """The names of LangGraph with an underscore in front that a source uses."""
    return {name for name in _names(ast.parse(source)) if name.startswith("langgraph.") and "._" in name}


def test_no_lint_rule_is_silenced_in_the_code() -> None:
    mark = "# no" + "qa"
    tops = (*PACKAGES, "tests", "migrations", "bench", "dashboards")
    files = [file for top in tops for file in (ROOT / top).rglob("*.py")]
    assert [str(file.relative_to(ROOT)) for file in files if mark in file.read_text()] == []


def _uses(name: str, source: str) -> bool:
    return any(used == name or used.startswith(f"{name}.") for used in _names(ast.parse(source)))


def _names(tree: ast.Module) -> Iterator[str]:
    """Every imported module and member, and every dotted name, with aliases of imports resolved."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                aliases[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
                yield alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            yield f"{aliases[node.value.id]}.{node.attr}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield aliases.get(node.func.id, node.func.id)
