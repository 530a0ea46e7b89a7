"""The environment of all tests: no API keys of the developer, and no skipped test where all services are required."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PRIVATE = [
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
    "GOOGLE_API_KEY",
    "OPENAI_BASE_URL",
    "SPANLOOM_MODEL",
    "OTEL_SDK_DISABLED",
]
INSIDE = {
    "test_private.py": f"import os\ndef test_private():\n    assert not {set(PRIVATE)} & set(os.environ)\n",
    "test_expected.py": "import pytest\n@pytest.mark.xfail\ndef test_expected():\n    assert False\n",
    "test_called.py": "import pytest\ndef test_called():\n    pytest.skip('not here')\n",
    "test_marked.py": "import pytest\n@pytest.mark.skip(reason='not here')\ndef test_marked():\n    assert True\n",
    "test_module.py": "import pytest\npytest.skip('not here', allow_module_level=True)\n",
}


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tests to run under our conftest."""
    folder = tmp_path_factory.mktemp("inside")
    for name, body in INSIDE.items():
        (folder / name).write_text(body)
    return folder


def test_a_test_sees_no_key_and_may_skip_on_a_developers_machine(inside: Path) -> None:
    output = _pytest(inside, SPANLOOM_REQUIRE_ALL="0", **dict.fromkeys(PRIVATE, "set"))
    assert "1 passed, 3 skipped, 1 xfailed" in output


def test_a_skip_fails_where_everything_must_be_there(inside: Path) -> None:
    output = _pytest(inside, SPANLOOM_REQUIRE_ALL="1")
    assert "1 failed, 1 passed, 1 xfailed, 2 errors" in output
    assert output.count("allows no skip") >= 3


def test_no_test_is_traced_by_a_vendor() -> None:
    assert os.environ["LANGSMITH_TRACING"] == "false"
    assert os.environ["ANTHROPIC_OPEN_TELEMETRY"] == "false"
    assert os.environ["LANGGRAPH_STRICT_MSGPACK"] == "true"


def _pytest(folder: Path, **environment: str) -> str:
    options = ["-p", "tests.conftest", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, folder],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout
