"""`spanloom retention`: delete what is due, and the rules of owners and templates."""

from dataclasses import asdict

from api.cli import interrupts, terminal
from api.cli.database_reads import check_exists, read
from api.cli.errors import wrong_use
from api.cli.exit_codes import BAD_NEWS, DONE
from api.cli.rendering.plain import plain
from api.cli.rendering.retention import retention_table, rules_table
from api.setting_values import days
from api.settings import Settings
from api.wiring.database import open_database
from api.wiring.recovery import open_eraser
from api.wiring.retention import build_retention
from telemetry.reads.sizes import Sizes, read_sizes
from telemetry.reconcile.job import ReconcileJob
from telemetry.retention.job import RetentionReport
from telemetry.retention.pages import can_shrink
from telemetry.retention.periods import Rule, read_rules, set_rule, unset_rule

_CANNOT_SHRINK = (
    "This SQLite file was made by another program and never becomes smaller. Stop the service, then run: "
    "sqlite3 FILE 'PRAGMA auto_vacuum = INCREMENTAL; VACUUM'"
)


def delete_due(*, dry_run: bool, as_json: bool) -> int:
    """Delete what is due, or only show it."""
    settings = terminal.begin()
    check_exists(settings)
    report, sizes, shrinks = interrupts.run(_delete(settings, dry_run=dry_run))
    if as_json:
        terminal.show_json(_document(report, sizes, dry_run=dry_run))
        return DONE
    terminal.show(retention_table(report, sizes, dry_run=dry_run))
    if not shrinks:
        print(_CANNOT_SHRINK)
    return DONE


async def _delete(settings: Settings, *, dry_run: bool) -> tuple[RetentionReport, Sizes, bool]:
    async with open_database(settings) as database, open_eraser(settings, database) as eraser:
        retention = build_retention(settings, database, eraser)
        # Where no service runs nobody else compares the books, and what was not compared is kept.
        await ReconcileJob(database, settings.prometheus_url).run_if_due()
        report = await (retention.find_due() if dry_run else retention.delete_due())
        async with database.read() as connection:
            return report, await read_sizes(connection), await can_shrink(database)


def _document(report: RetentionReport, sizes: Sizes, *, dry_run: bool) -> dict[str, object]:
    return {
        "dry_run": dry_run,
        "tables": {name: asdict(table) for name, table in report.tables.items() if table.rows},
        "kept_back": {reason.name.lower(): number for reason, number in report.held.items()},
        "pages_given_back": report.pages_given_back,
        "longest_transaction_ms": round(report.longest_seconds * 1000),
        "database_bytes": sizes.total,
        "table_bytes": sizes.tables,
    }


def list_rules(*, as_json: bool) -> int:
    """List the rules."""
    settings = terminal.begin()
    found = read(settings, read_rules)
    if as_json:
        terminal.show_json({"items": [asdict(rule) for rule in found]})
    else:
        terminal.show(rules_table(found))
    return DONE


def set_one(
    owner: str,
    template: str,
    content_days: float | None,
    spans_days: float | None,
    records_days: float | None,
    *,
    as_json: bool,
) -> int:
    """Store a rule."""
    settings = terminal.begin()
    _check_subject(owner, template)
    if content_days is spans_days is records_days is None:
        wrong_use("Say how long: --content-days, --spans-days or --records-days.")
    for name, given in (("content", content_days), ("spans", spans_days), ("records", records_days)):
        _check_days(name, given)
    check_exists(settings)
    rule = Rule(owner, template, content_days, spans_days, records_days)

    async def store() -> None:
        async with open_database(settings) as database, database.begin() as connection:
            await set_rule(connection, rule)

    interrupts.run(store())
    if as_json:
        terminal.show_json(asdict(rule))
    else:
        terminal.show(rules_table([rule]))
    return DONE


def unset_one(owner: str, template: str, *, as_json: bool) -> int:
    """Delete a rule; 1 if there is none."""
    settings = terminal.begin()
    _check_subject(owner, template)
    check_exists(settings)

    async def forget() -> bool:
        async with open_database(settings) as database, database.begin() as connection:
            return await unset_rule(connection, owner, template)

    was_there = interrupts.run(forget())
    if as_json:
        terminal.show_json({"deleted": was_there})
    else:
        names = " and ".join(f"{kind} {name}" for kind, name in (("owner", owner), ("template", template)) if name)
        print(plain(f"The rule of {names} is deleted." if was_there else f"There is no rule of {names}."))
    return DONE if was_there else BAD_NEWS


def _check_days(name: str, given: float | None) -> None:
    """By the rules of the settings."""
    try:
        if given is not None:
            days(given)
    except ValueError as error:
        wrong_use(f"--{name}-days {error}.")


def _check_subject(owner: str, template: str) -> None:
    if not (owner or template):
        wrong_use("Say whose executions: --owner or --template. For all others set SPANLOOM_SPANS_DAYS and the like.")
    try:
        (owner + template).encode()
    except UnicodeEncodeError:
        wrong_use("--owner and --template are written in UTF-8.")
