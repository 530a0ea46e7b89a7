"""`spanloom demo`: a stranger's first minute, without key, network or container."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

SPANLOOM = Path(sys.executable).parent / "spanloom"


def _start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The demo, with its temporary folder in `folder`, and no way out: every proxy is a closed port."""
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    return subprocess.Popen(
        [SPANLOOM, "demo", *arguments],
        cwd=folder,
        env={**os.environ, **nowhere, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def test_the_demo_answers_calculates_fails_on_purpose_and_shows_its_books(tmp_path: Path) -> None:
    process = _start(tmp_path, "--once")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "“Money is an integer number of nano-dollars, so that sums are exact" in out
    assert "calculate(17.5 * 12) gives 210." in out
    assert "resource_missing at node retrieval" in out
    assert "tool search_docs" in out
    assert "seal 11/11 spans" in out
    totals = next(line for line in out.splitlines() if line.startswith("total"))
    assert totals.split()[1:3] == ["4", "1"]
    assert "no real money" in out
    assert "Where to look next:" in out
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_the_demo_stays_up_and_serves_what_it_made_until_ctrl_c(tmp_path: Path) -> None:
    process = _start(tmp_path, "--port", "18300")
    assert process.stdout is not None
    line = next(line for line in process.stdout if line.startswith("Serving these executions at "))
    url = line.removeprefix("Serving these executions at ").split()[0]
    with urllib.request.urlopen(f"{url}/v1/executions", timeout=20) as answer:
        listed = json.load(answer)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert [item["status"] for item in listed["items"]] == ["failed", "completed", "completed", "completed"]
    assert process.returncode == 0, err
    assert list(tmp_path.iterdir()) == []
