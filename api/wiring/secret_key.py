"""The secret keys of a deployment: sealed secrets and signed signals depend on them."""

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from api.settings import Settings, SettingsInvalid
from engine.database.database import dialect_name, parse_url
from engine.security.redaction import know_secrets

if TYPE_CHECKING:
    from telemetry.collector.signature import Signer


def secret_keys(settings: Settings) -> tuple[str, ...]:
    """`SPANLOOM_SECRET_KEY`; on SQLite without it, the key in a file that is created when needed. May be empty.

    Raises `SettingsInvalid` if other users may read the file.
    """
    return settings.secret_key or _kept_key(settings)


def check_signing(settings: Settings) -> None:
    """Raises `SettingsInvalid` if there is no key to sign the signals with that go through the Collector."""
    if not settings.secret_key and key_file(settings) is None:
        raise SettingsInvalid(
            "SPANLOOM_PIPELINE=collector needs SPANLOOM_SECRET_KEY, with which signals are signed; make one with "
            "`openssl rand -hex 32` and give the same to every process"
        )


def build_signer(settings: Settings) -> "Signer":
    """Signs signals, and recognises them, with the secret keys of this deployment."""
    from telemetry.collector.signature import Signer

    return Signer(lambda: secret_keys(settings))


def key_file(settings: Settings) -> Path | None:
    """The key file beside a SQLite database; None for PostgreSQL, whose processes must share a configured key."""
    url = parse_url(settings.database_url)
    return Path(f"{url.database}.key") if dialect_name(url) == "sqlite" else None


def _kept_key(settings: Settings) -> tuple[str, ...]:
    """The key in the file, created if there is none. Raises `SettingsInvalid` if other users may read the file."""
    file = key_file(settings)
    if file is None:
        return ()
    if not file.exists():
        _make(file)
    if file.stat().st_mode & 0o077:
        raise SettingsInvalid(f"{file} holds a secret, but other users can read it; run: chmod 600 {file}")
    key = file.read_text().strip()
    know_secrets([key])
    return (key,)


def _make(file: Path) -> None:
    """Create the key file atomically; of two processes at once, one wins."""
    draft = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, f"{secrets.token_hex(32)}\n".encode())
        os.fsync(descriptor)
        file.hardlink_to(draft)
    except FileExistsError:
        return
    finally:
        os.close(descriptor)
        draft.unlink()
