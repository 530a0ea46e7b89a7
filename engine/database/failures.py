"""Translates the errors of database drivers into sentences that say what to do."""

from collections.abc import Iterator

import asyncpg  # type: ignore[import-untyped]  # asyncpg ships no types
from sqlalchemy.exc import SQLAlchemyError

from engine.errors import SpanloomError, Unavailable

DATABASE_ERRORS = (SpanloomError, SQLAlchemyError, OSError)
"""The errors of database work that a background task logs and outlives."""

_SQLITE = {
    "database is locked": "is locked by another process; stop the other process or try again",
    "database table is locked": "is locked by another process; stop the other process or try again",
    "readonly database": "is read-only; make the file and its folder writable for this user",
    "unable to open database file": "cannot be opened; check that its folder exists and is writable for this user",
    "disk is full": "is full; free disk space, then try again",
    "disk i/o error": "cannot be read or written (disk error); check the disk and its free space",
    "file is not a database": "is not an SQLite database; name another file in SPANLOOM_DATABASE_URL",
    "malformed": "is damaged; restore it from a backup",
    "no such table": "has an older schema than this program; run `spanloom migrate`",
    "no such column": "has an older schema than this program; run `spanloom migrate`",
}
_POSTGRES = {
    "28": "refused the user or password; check SPANLOOM_DATABASE_URL",
    "3D000": "does not exist on the server; create it or name another one in SPANLOOM_DATABASE_URL",
    "53100": "has no disk space left; free some, then try again",
    "53300": "has no connection left; raise max_connections or stop other clients, then try again",
    "53": "is out of resources; try again",
    "57P": "is starting up, shutting down or was restarted; try again",
    "57014": "took too long for a statement; try again",
    "55P03": "is locked by another session; try again",
    "40": "had a conflict with another transaction; try again",
    "25P03": "rolled back a transaction that was idle for too long; try again",
    "25006": "is read-only; connect to the primary server",
    "42501": "does not permit this to the user; grant the user rights on the schema",
    "42P01": "has an older schema than this program; run `spanloom migrate`",
    "42703": "has an older schema than this program; run `spanloom migrate`",
    "08": "cannot be reached; check that it runs and that host and port are right",
}


def unavailable(error: BaseException, database: str) -> Unavailable | None:
    """The refusal for a driver's error; null if the error does not describe the condition of the database."""
    for cause in _chain(error):
        sentence = _sentence(cause)
        if sentence is not None:
            return Unavailable(f"the database {database} {sentence}")
    return None


def _sentence(error: BaseException) -> str | None:
    sqlstate = getattr(error, "sqlstate", None)
    if isinstance(sqlstate, str):
        matches = (sentence for code, sentence in _POSTGRES.items() if sqlstate.startswith(code))
        return _POSTGRES.get(sqlstate) or next(matches, None)
    text = str(error).lower()
    for words, sentence in _SQLITE.items():
        if words in text:
            return sentence
    gone = "connection was closed" in text or "connection is closed" in text
    if gone or isinstance(error, OSError | TimeoutError | asyncpg.InternalClientError):
        return _POSTGRES["08"]
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
