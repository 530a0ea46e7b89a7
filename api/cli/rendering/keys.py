"""The table of API keys."""

from collections.abc import Sequence

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from api.cli.rendering.formatting import UNKNOWN, moment
from api.cli.rendering.plain import plain
from api.schemas.keys import KeyAnswer

_STYLES = {"active": "green", "expired": "yellow", "revoked": "red"}
_WIDE = 110


def keys_table(keys: Sequence[KeyAnswer], *, width: int) -> RenderableType:
    """One line per key, in the given order; on a narrow terminal without times."""
    if not keys:
        return Text("No keys. Create one: spanloom keys create --owner NAME --name NAME --scope '*'")
    is_wide = width >= _WIDE
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for column in ("id", "owner", "name", "status", "scopes", *(("expires (UTC)", "last used") if is_wide else ())):
        table.add_column(column, no_wrap=column in ("id", "status"), overflow="fold")
    for one in keys:
        times = (moment(one.expires_at) if one.expires_at else "never", moment(one.last_used_at)) if is_wide else ()
        scopes = ", ".join(one.scopes) or UNKNOWN
        status = Text(one.status, style=_STYLES[one.status])
        table.add_row(one.id, plain(one.owner), plain(one.name), status, scopes, *times)
    return table
