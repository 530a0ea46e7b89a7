"""The command `spanloom`, also as `python -m spanloom`. It runs beside any other `engine/`, `telemetry/` or `api/`."""

import atexit
import gc
import signal

from spanloom.packages import COMMAND, check_packages, prefer_own_packages


def main() -> None:
    """Run the command line with spanloom's own packages."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports ends the process without a traceback
    atexit.register(gc.freeze)  # else the interpreter's last collections walk all modules, which takes 0.1 s
    prefer_own_packages()
    check_packages(COMMAND)
    from api.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
