"""A folder in which the tests of the command line run `spanloom`."""

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from api.cli import main

SPANLOOM = Path(sys.executable).parent / "spanloom"


SECONDS = 60


TEXT = "# Harbour\n\nThe lighthouse of Brant was built in 1841.\n\n# Ferry\n\nThe ferry leaves every hour.\n"


QUESTION = "When was the lighthouse built?"


ANSWER = "“The lighthouse of Brant was built in 1841.” (harbour.md > Harbour)\n"


Done = subprocess.CompletedProcess[str]


class Shell:
    """A folder in which commands run, with a database of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "texts").mkdir()
        (folder / "texts" / "harbour.md").write_text(TEXT)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command; its streams are pipes."""
        return subprocess.Popen(
            [SPANLOOM, *arguments],
            cwd=self.folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def run(self, *arguments: str, **environment: str) -> Done:
        """Run a command to its end, in this process: imports are paid once."""
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["spanloom", *arguments])
            for name, value in environment.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as end:
                main.main()
        said = [stream.buffer.getvalue().decode() for stream in (out, err)]
        return Done(arguments, int(end.value.code or 0), *said)

    def ask(self) -> Done:
        """A question to the text of the folder."""
        return self.run("run", "document_qa", "--param", "path=texts", "--message", QUESTION)

    def json(self, *arguments: str) -> Any:
        """What a command prints with `--json`."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @staticmethod
    def finish(process: subprocess.Popen[str]) -> Done:
        """Wait for the end."""
        out, err = process.communicate(timeout=SECONDS)
        assert "Traceback" not in err
        return Done(process.args, process.returncode, out, err)
