"""`spanloom doctor`: check settings, database, models and exporters, with advice."""

import platform
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import httpx2

from api.access import keys
from api.cli import interrupts, terminal
from api.cli.exit_codes import BAD_NEWS, DONE, NOT_READY
from api.cli.rendering.formatting import ASSUMED_MEANING, plural
from api.cli.rendering.tables import Check, Level, checks_view
from api.service.server import CannotListen, listen
from api.setting_texts import in_force
from api.settings import Settings, SettingsInvalid, check_ingest, prepare_process
from api.wiring.access import check_bind, check_keys
from api.wiring.pipelines import find_destination
from api.wiring.resources import build_prices
from api.wiring.secret_key import check_signing
from engine.database import migrations
from engine.database.base import database_time
from engine.database.database import Database, dialect_name, parse_url, safe_name
from engine.errors import SpanloomError
from engine.models.offline import NOTICE, OFFLINE
from engine.models.registry import PROVIDERS, LangChainModels, Provider
from engine.resources import UNPRICED_MEANING, CostSource
from engine.security.redaction import mask_url
from telemetry.sdk.providers import ExportSettingInvalid, build_telemetry

_SKEW_SECONDS = 2.0


def examine(*, as_json: bool) -> int:
    """Run every check; 3 if one fails, or 1 if it is about models and prices alone."""
    settings = terminal.begin()
    of_models = list(_models(settings))
    checks = [*_program(settings), *interrupts.run(_database(settings)), *of_models, *_surroundings(settings)]
    failed = [check for check in checks if check.level == "fail"]
    is_ready = not failed
    if as_json:
        settings_now = [asdict(setting) for setting in in_force(settings)]
        terminal.show_json({"ready": is_ready, "checks": [asdict(check) for check in checks], "settings": settings_now})
    else:
        terminal.show(checks_view(checks))
        print("Ready." if is_ready else "Not ready: fix the lines marked ✗ before you run workflows.")
    return DONE if is_ready else BAD_NEWS if all(check in of_models for check in failed) else NOT_READY


def _program(settings: Settings) -> Iterator[Check]:
    yield Check("spanloom", "ok", f"{version('spanloom')} on Python {platform.python_version()}")
    every = in_force(settings)
    given = [f"{setting.variable}={setting.shown}" for setting in every if setting.is_set]
    rest = f"{len(every) - len(given)} settings have their default; --json lists all"
    yield Check("settings", "ok", "\n".join(given) or "all defaults", rest)


async def _database(settings: Settings) -> list[Check]:
    try:
        return [check async for check in _database_checks(settings)]
    except SpanloomError as error:
        return [Check("database", "fail", error.message)]


async def _database_checks(settings: Settings) -> AsyncIterator[Check]:
    url = parse_url(settings.database_url)
    name = safe_name(url)
    if dialect_name(url) == "sqlite" and (new := _new_file(Path(name))) is not None:
        yield new
        return
    waiting = await migrations.pending(settings.database_url)
    async with Database(settings.database_url, busy_seconds=1.0) as database:
        async with database.begin() as connection:
            clock = await database_time(connection)
        yield Check("database", "ok", f"{name} can be read and written")
        yield _schema(waiting, is_sqlite=database.dialect_name == "sqlite")
        if "0020" not in waiting:
            yield await _keys(settings, database)
        skew = abs((datetime.now(UTC) - clock).total_seconds())
        advice = "synchronise the clocks of both machines, for example with NTP" if skew > _SKEW_SECONDS else ""
        yield Check("clock", "warn" if advice else "ok", f"differs from the database's clock by {skew:.1f} s", advice)


async def _keys(settings: Settings, database: Database) -> Check:
    """Whether requests need a key, and how many keys count now."""
    async with database.read() as connection:
        valid, others = await keys.count(connection)
    try:
        await check_keys(settings, database)
    except SettingsInvalid as error:
        return Check("API keys", "fail", error.message)
    if not valid + others:
        return Check("API keys", "ok", "none: every program on this machine is owner `default` and may do everything")
    finding = f"{plural(valid, 'key', 'keys')} valid, {others} expired or revoked; every request needs one"
    advice = "" if valid else "create one: spanloom keys create --help"
    return Check("API keys", "ok" if valid else "warn", finding, advice)


def _new_file(file: Path) -> Check | None:
    """The check for a SQLite file that does not exist yet."""
    if file.exists():
        return None
    folder = file.absolute().parent
    if not folder.is_dir():
        return Check("database", "fail", f"there is no folder {folder}", "create it, or change SPANLOOM_DATABASE_URL")
    return Check("database", "ok", f"{file} does not exist yet; the first execution creates it")


def _schema(waiting: list[str], *, is_sqlite: bool) -> Check:
    if not waiting:
        return Check("schema", "ok", "up to date")
    finding = f"not applied: {', '.join(waiting)}"
    if is_sqlite:
        return Check("schema", "warn", finding, "the next execution upgrades it, or run: spanloom migrate")
    return Check("schema", "fail", finding, "run: spanloom migrate")


def _models(settings: Settings) -> Iterator[Check]:
    models = LangChainModels(settings.providers, settings.model)
    default = models.default() or OFFLINE
    source = "SPANLOOM_MODEL" if settings.model else "the first provider with a key" if default != OFFLINE else "no key"
    is_demo = default == OFFLINE and not settings.model
    problem = models.problem(*default)
    advice = problem or (NOTICE if is_demo else "")
    yield Check("default model", "fail" if problem else "ok", f"{':'.join(default)} ({source})", advice)
    for provider in PROVIDERS.values():
        yield _provider(provider, settings)
    yield _prices(settings, models, default)


def _prices(settings: Settings, models: LangChainModels, default: tuple[str, str]) -> Check:
    """Whether the default model has a price on its server, and whether that is an assumption."""
    try:
        prices = build_prices(settings)
    except SpanloomError as error:
        return Check("prices", "fail", error.message, "spanloom prices check lists every problem of the file")
    finding = "the file of SPANLOOM_PRICES, then the built-in catalogue" if settings.prices else "built-in catalogue"
    host = models.server(default[0]).host
    found = prices.in_force(*default, host, None, datetime.now(UTC))
    if found.reason is not None:
        why = f"{':'.join(default)} has no price ({UNPRICED_MEANING[found.reason]})"
        return Check("prices", "warn", finding, f"{why}; set one in a file that SPANLOOM_PRICES names")
    if found.source is CostSource.ASSUMED:
        why = f"{':'.join(default)} at {host} is booked {ASSUMED_MEANING}"
        return Check("prices", "warn", finding, f"{why}; SPANLOOM_PRICES or SPANLOOM_FOREIGN_PRICES settles it")
    return Check("prices", "ok", finding)


def _provider(provider: Provider, settings: Settings) -> Check:
    reach = settings.providers[provider.name]
    key = "key present" if reach.api_key else "no key"
    address = f", at {mask_url(reach.base_url)}" if reach.base_url else ""
    if provider.is_installed:
        return Check(provider.name, "ok" if reach.is_set else "info", f"installed, {key}{address}")
    advice = f"pip install 'spanloom[{provider.name}]'" if reach.is_set else ""
    level: Level = "info" if not reach.is_set else "warn" if settings.model else "fail"
    return Check(provider.name, level, f"not installed, {key}{address}", advice)


def _surroundings(settings: Settings) -> Iterator[Check]:
    yield _attempt("address", lambda: check_bind(settings), "{}:{}".format(*settings.address), _port(settings))
    if settings.pipeline == "collector":
        address = "{}:{}".format(*settings.ingest_address)
        taken = _taken("Collector", *settings.ingest_address, "SPANLOOM_INGEST_BIND", "fail")
        finding = f"{address}, with a token and a secret key"
        yield _attempt("Collector", lambda: _check_collector(settings), finding, taken)
    yield _attempt("checkpoints", lambda: prepare_process(settings), "strict deserialisation (msgpack) is on")
    if settings.langsmith:
        yield Check(
            "LangSmith",
            "warn",
            "on: prompts and answers are sent to LangSmith",
            "unset SPANLOOM_LANGSMITH to stop this",
        )
    else:
        yield Check("LangSmith", "ok", "off")
    yield Check(
        "leases",
        "ok",
        f"{settings.lease_seconds:g} s, renewed every {settings.lease_renew_seconds:g} s; "
        f"lost executions are searched for every {settings.sweep_seconds:g} s",
    )
    yield _exporters()
    for root in settings.files_roots:
        is_there = root.is_dir()
        advice = "" if is_there else "create the folder, or change SPANLOOM_FILES_ROOTS"
        yield Check(
            "files",
            "ok" if is_there else "warn",
            f"{root} {'can be searched' if is_there else 'is not a folder'}",
            advice,
        )
    if not settings.files_roots:
        advice = (
            "the command line can search any folder; SPANLOOM_FILES_ROOTS lists folders that HTTP requests can search"
        )
        yield Check("files", "info", "HTTP requests cannot search any folder", advice)


def _check_collector(settings: Settings) -> None:
    check_ingest(settings)
    check_signing(settings)
    find_destination(settings)


def _attempt(name: str, check: Callable[[], None], finding: str, otherwise: Check | None = None) -> Check:
    try:
        check()
    except SpanloomError as error:
        return Check(name, "fail", error.message)
    return otherwise or Check(name, "ok", finding)


def _port(settings: Settings) -> Check | None:
    """A check if the port of the API is taken. Other programs like the default port, and `run` does not need it."""
    is_named = bool({"bind", "port"} & settings.model_fields_set)
    return _taken("address", *settings.address, "SPANLOOM_BIND", "fail" if is_named else "warn")


def _taken(name: str, host: str, port: int, variable: str, level: Level) -> Check | None:
    """A check if nobody can listen there, or if a spanloom listens there already; else null."""
    try:
        listen(host, port, variable=variable).close()
    except CannotListen as error:
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if _is_spanloom(f"http://{place}/healthz"):
            return Check(name, "ok", f"{place}, where a spanloom is running")
        return Check(name, level, error.message)
    return None


def _is_spanloom(url: str) -> bool:
    try:
        answer = httpx2.get(url, trust_env=False, timeout=1.0)
        return answer.status_code == 200 and set(answer.json()) == {"status", "version"}
    except (httpx2.HTTPError, ValueError, TypeError):
        return False


def _exporters() -> Check:
    try:
        telemetry = build_telemetry()
    except ExportSettingInvalid as error:
        return Check("exporters", "fail", str(error))
    telemetry.shutdown()
    return Check("exporters", "ok", "set by the OTEL_* variables")
