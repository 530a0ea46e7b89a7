"""The exit codes of `spanloom`. They are part of the public surface: scripts decide by them."""

DONE = 0
BAD_NEWS = 1
WRONG_USE = 2
NOT_READY = 3
REFUSED = 4
INTERNAL = 70
INTERRUPTED = 130

EXIT_CODES: dict[int, str] = {
    DONE: "Done.",
    BAD_NEWS: "Bad news: an execution failed, paused or was cancelled; a file is not valid; the books disagree; "
    "a model cannot be called as the settings say.",
    WRONG_USE: "Wrong use: an unknown option, a bad value, or a bad setting.",
    NOT_READY: "Not ready: the database or the address cannot be used.",
    REFUSED: "Refused: an unknown id, a malformed workflow, or an execution whose status does not allow it.",
    INTERNAL: "Internal error in spanloom.",
    INTERRUPTED: "Interrupted by Ctrl-C.",
}
"""Each exit code with its meaning, for `spanloom --help` and the reference."""
