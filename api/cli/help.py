"""How `--help` looks: commands in the order of use, and arguments by their name alone."""

from typing import Any

from typer.core import TyperCommand, TyperGroup

from api.cli.exit_codes import EXIT_CODES

EPILOG = "\n".join(
    [
        "Start with: spanloom demo --once",
        "",
        "With --json, stdout is one JSON document: the answer, or an RFC 9457 problem document if the command fails.",
        "",
        "\b",
        "Exit codes:",
        *(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items()),
    ]
)


class Command(TyperCommand):
    """A command whose help writes an argument as `FILE…`, without braces and type."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words after the command's name in its usage line."""
        arguments = [param for param in self.get_params(ctx) if param.param_type_name == "argument"]
        return ["[OPTIONS]", *(_usage_name(param) for param in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the lists of arguments and options."""
        lists: dict[str, list[tuple[str, str]]] = {"argument": [], "option": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                name = str(param.metavar) if param.param_type_name == "argument" else record[0]
                lists[param.param_type_name].append((name, record[1].removesuffix("  [required]")))
        for title, records in zip(("Arguments", "Options"), lists.values(), strict=True):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class Group(TyperGroup):
    """The commands, in the order in which a newcomer needs them."""

    ORDER = (
        "demo", "run", "validate", "serve", "executions", "trace", "cost", "reconcile", "dead-letters", "webhooks",
        "migrate", "doctor",
    )  # fmt: skip

    def list_commands(self, ctx: Any) -> list[str]:
        """Every command's name; those without a place in the order stand last."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: self.ORDER.index(name) if name in self.ORDER else len(self.ORDER))


def _usage_name(param: Any) -> str:
    return str(param.metavar) if param.required else f"[{param.metavar}]"
