"""The process of the command: what it does beside running a command line."""

import subprocess
import sys
from pathlib import Path


def test_its_end_does_not_wait_for_a_collection_of_all_modules(tmp_path: Path) -> None:
    code = (
        "import atexit, gc, sys\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 10_000))\n"
        "sys.argv = ['spanloom', '--version']\n"
        "from spanloom.__main__ import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True"
