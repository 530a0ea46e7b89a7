"""The command `spanloom`, also as `python -m spanloom`. It runs beside any other `engine/`, `telemetry/` or `api/`."""

from spanloom.packages import COMMAND, check_packages, prefer_own_packages


def main() -> None:
    """Run the command line with spanloom's own packages."""
    prefer_own_packages()
    check_packages(COMMAND)
    from api.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
