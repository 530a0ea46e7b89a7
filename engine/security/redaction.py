"""Redacts secrets in error messages, log lines and span attributes."""

import re

MAX_MESSAGE_BYTES = 2_048
REDACTED = "[redacted]"

SECRET_SHAPES = re.compile(
    r"""
    \b(?:sk|pk|rk|spl|whsec|xox[abpr]|ghp|gho|glpat)[-_][A-Za-z0-9_\-]{12,}   # keys of providers and services
  | \bAIza[A-Za-z0-9_\-]{30,}                                               # Google API keys
  | \bAKIA[0-9A-Z]{16}\b                                                    # AWS access keys
  | \beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*            # JWT
  | -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----[\s\S]*?(?:-----END\ [A-Z ]*PRIVATE\ KEY-----|$)
  | (?i:\bbearer)\s+[A-Za-z0-9._~+/\-]{12,}=*
  | (?<=://)[^/\s:@]+:[^/\s@]+(?=@)                                         # user:password@ in a URL
    """,
    re.VERBOSE,
)


def redact(text: str) -> str:
    """The text with everything that has the shape of a secret replaced."""
    return SECRET_SHAPES.sub(REDACTED, text)


def error_text(text: str) -> str:
    """A message for result, span and record: redacted, at most 2 KiB of UTF-8."""
    data = redact(text.replace("\0", "\ufffd")).encode("utf-8", "replace")
    return (
        data.decode()
        if len(data) <= MAX_MESSAGE_BYTES
        else data[: MAX_MESSAGE_BYTES - 3].decode("utf-8", "ignore") + "…"
    )
