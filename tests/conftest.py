"""What every test runs in: a clean environment, both databases, and the real programs of tests/services."""

import asyncio
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

import hypothesis
import pytest

from tests.faults.figures import IS_LONG, commit_of_tree, reported, table
from tests.services.aimock import server as aimock_service
from tests.services.aimock.server import ModelServer
from tests.services.alertmanager import server as alertmanager_service
from tests.services.alertmanager.server import Alertmanager
from tests.services.cache import ServiceMissing
from tests.services.collector import server as collector_service
from tests.services.collector.server import CONFIG, Collector
from tests.services.jaeger import server as jaeger_service
from tests.services.jaeger.server import Jaeger
from tests.services.postgres import server as postgres_service
from tests.services.postgres.server import PostgresServer
from tests.services.prometheus import server as prometheus_service
from tests.services.prometheus.server import JsonDocument, Prometheus, Promtool

T = TypeVar("T")

REQUIRE_ALL = os.environ.get("SPANLOOM_REQUIRE_ALL") == "1"
_OURS = {"SPANLOOM_FAULTS", "SPANLOOM_FAULTS_SEED", "SPANLOOM_REQUIRE_ALL", "SPANLOOM_TEST_DATABASE_URL"}
_PROVIDERS = ("ANTHROPIC_", "AZURE_", "GEMINI_", "GOOGLE_", "LANGCHAIN_", "LANGSMITH_", "OPENAI_", "OTEL_", "SPANLOOM_")
_FIXED = {
    "ANTHROPIC_OPEN_TELEMETRY": "false",
    "LANGGRAPH_STRICT_MSGPACK": "true",
    "LANGSMITH_TRACING": "false",
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
}


def pytest_configure() -> None:
    """No test sees a key, an address or a setting of the person who runs it, nor a child process of one."""
    for name in [name for name in os.environ if name.startswith(_PROVIDERS) and name not in _OURS]:
        del os.environ[name]
    os.environ.update(_FIXED)
    hypothesis.settings.register_profile("spanloom", deadline=None, print_blob=True)
    hypothesis.settings.load_profile("spanloom")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where everything must be there (SPANLOOM_REQUIRE_ALL=1) a skipped test is a failed one."""
    report = yield
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"SPANLOOM_REQUIRE_ALL=1 allows no skip: {report.longreprtext}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a skipped module."""
    report = yield
    if REQUIRE_ALL and report.skipped:
        report.outcome, report.longrepr = "failed", f"SPANLOOM_REQUIRE_ALL=1 allows no skip: {report.longreprtext}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures of the tests that count faults, with the commit."""
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if isinstance(report, pytest.TestReport)
    ]
    if lines := table(reported(reports)):
        form = "long" if IS_LONG else "short"
        terminalreporter.section(f"faults, {form} form, commit {commit_of_tree()}")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def log_levels() -> None:
    """A test finds the levels of loggers as Python has them, whatever log another test or fixture has configured."""
    logging.root.setLevel(logging.WARNING)
    for name in ("spanloom", "engine", "telemetry", "api", "alembic", "uvicorn"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The PostgreSQL server of this session."""
    yield from _service(postgres_service.serve)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A new and empty PostgreSQL database, `postgresql://`."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A SQLite database file that does not exist yet, `sqlite:///`."""
    return f"sqlite:///{tmp_path / 'spanloom.db'}"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> str:
    """A new and empty database: the test runs once on SQLite and once on PostgreSQL."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def migrated_url(request: pytest.FixtureRequest) -> str:
    """A new database with the schema in it, copied from one that was migrated once; on SQLite and on PostgreSQL."""
    url: str = request.getfixturevalue(f"migrated_{request.param}_url")
    return url


@pytest.fixture
def migrated_sqlite_url(sqlite_template: Path, sqlite_url: str) -> str:
    """A new SQLite database with the schema in it."""
    shutil.copy(sqlite_template, sqlite_url.removeprefix("sqlite:///"))
    return sqlite_url


@pytest.fixture
def other_sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A second one, to compare the first with."""
    return f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'other.db')}"


@pytest.fixture
def migrated_postgres_url(postgres_template: str, postgres_server: PostgresServer) -> Iterator[str]:
    """A new PostgreSQL database with the schema in it."""
    url = postgres_server.create_database(template=postgres_template)
    yield url
    postgres_server.drop_database(url)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The migrated SQLite file that others are copies of."""
    file = tmp_path_factory.mktemp("template") / "spanloom.db"
    _migrate(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of the migrated PostgreSQL database that others are copies of."""
    url = postgres_server.create_database()
    _migrate(url)
    yield urlsplit(url).path[1:]
    postgres_server.drop_database(url)


@pytest.fixture(scope="session")
def aimock_server() -> Iterator[ModelServer]:
    """The fake model server of this session; tests use `aimock`."""
    yield from _service(aimock_service.serve)


@pytest.fixture
def aimock(aimock_server: ModelServer) -> ModelServer:
    """The fake model server, without fixtures and with an empty journal."""
    aimock_server.reset()
    return aimock_server


@pytest.fixture(scope="session")
def jaeger() -> Iterator[Jaeger]:
    """The Jaeger of this session: traces of other tests are in it too."""
    yield from _service(jaeger_service.serve)


class StartCollector(Protocol):
    """Starts a Collector with the shipped file (or others) and this environment; it ends with the test."""

    def __call__(self, *configs: Path, **environment: str) -> Collector: ...


@pytest.fixture
def start_collector(tmp_path: Path) -> Iterator[StartCollector]:
    """Collectors of this test, each with queues of its own."""
    with ExitStack() as stack:

        def start(*configs: Path, **environment: str) -> Collector:
            folder = Path(tempfile.mkdtemp(prefix="collector-", dir=tmp_path))
            return _entered(stack, collector_service.serve(folder, configs=configs or (CONFIG,), **environment))

        yield start


@pytest.fixture
def start_prometheus(tmp_path: Path) -> Iterator[Callable[[JsonDocument], Prometheus]]:
    """Starts a Prometheus with this configuration; it ends with the test."""
    with ExitStack() as stack:

        def start(config: JsonDocument) -> Prometheus:
            folder = Path(tempfile.mkdtemp(prefix="prometheus-", dir=tmp_path))
            return _entered(stack, prometheus_service.serve(folder, config))

        yield start


@pytest.fixture
def start_alertmanager(tmp_path: Path) -> Iterator[Callable[[JsonDocument], Alertmanager]]:
    """Starts an Alertmanager with this configuration; it ends with the test."""
    with ExitStack() as stack:

        def start(config: JsonDocument) -> Alertmanager:
            folder = Path(tempfile.mkdtemp(prefix="alertmanager-", dir=tmp_path))
            return _entered(stack, alertmanager_service.serve(folder, config))

        yield start


@pytest.fixture(scope="session")
def promtool() -> Promtool:
    """Checks rules and configurations, and runs unit tests of rules."""
    return found(prometheus_service.promtool)


def _service(serve: Callable[[], AbstractContextManager[T]]) -> Iterator[T]:
    with ExitStack() as stack:
        yield _entered(stack, serve())


def _entered(stack: ExitStack, service: AbstractContextManager[T]) -> T:
    return found(lambda: stack.enter_context(service))


def found(find: Callable[[], T]) -> T:
    """A service that is missing skips the test; where everything must be there, that fails it."""
    try:
        return find()
    except ServiceMissing as missing:
        pytest.skip(str(missing))


def _migrate(url: str) -> None:
    """Migrate in a thread of its own: the one we are in may have a loop that belongs to a test."""
    from engine.database import migrations

    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(lambda: asyncio.run(migrations.upgrade(url))).result()
