"""What a database is asked to write: the statements of each transaction that was committed, in order."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, event

from engine.database.database import Database

_WRITES = ("INSERT", "UPDATE", "DELETE", "WITH", "COPY")


@contextmanager
def sql_log(database: Database) -> Iterator[list[list[str]]]:
    """While the block runs, one list of statements per transaction that has written something and was committed."""
    engine = database._writer.sync_engine
    log: list[list[str]] = []
    open_: dict[int, list[str]] = {}

    def began(connection: Connection) -> None:
        open_[id(connection)] = []

    def executed(connection: Connection, _cursor: Any, statement: str, *_more: Any) -> None:
        if statement.lstrip().upper().startswith(_WRITES):
            open_.setdefault(id(connection), []).append(statement)

    def committed(connection: Connection) -> None:
        if statements := open_.pop(id(connection), []):
            log.append(statements)

    hooks: list[tuple[str, Callable[..., None]]] = [
        ("begin", began),
        ("before_cursor_execute", executed),
        ("commit", committed),
    ]
    for name, hook in hooks:
        event.listen(engine, name, hook)
    try:
        yield log
    finally:
        for name, hook in hooks:
            event.remove(engine, name, hook)
