"""Every setting as text: for `doctor`, for the reference and for `.env.example`."""

from dataclasses import dataclass

from api.settings import Settings, variable_of
from engine.security.redaction import mask_url


@dataclass(frozen=True, slots=True)
class SettingInForce:
    """The current value of a setting, as text. Of a secret it says only whether there is one."""

    variable: str
    shown: str
    is_set: bool
    """True if the environment sets it, false if it has its default."""


def in_force(settings: Settings) -> list[SettingInForce]:
    """The current value of every setting, in the order of the fields."""
    found: list[SettingInForce] = []
    for name, field in Settings.model_fields.items():
        value: object = getattr(settings, name)
        shown = mask_url(_shown(value)) if field.repr else "present" if value else "absent"
        found.append(SettingInForce(variable_of((name,)), shown, name in settings.model_fields_set))
    return found


def setting_rows() -> list[tuple[str, str, str]]:
    """Variable, default and meaning of every setting, in the order of the fields; the default may be empty."""
    return [
        (variable_of((name,)), _shown(field.default), field.description or "")
        for name, field in Settings.model_fields.items()
    ]


def env_example() -> str:
    """The text of `.env.example`: every variable with its default and meaning."""
    lines = ["# Every setting, with its default. Generated from api/settings.py.", ""]
    for variable, default, meaning in setting_rows():
        lines += [f"# {meaning}", f"#{variable}={default}", ""]
    lines.append("# OTEL_* mean what OpenTelemetry says; OTEL_EXPORTER_OTLP_ENDPOINT names where traces are sent, too.")
    return "\n".join(lines) + "\n"


def _shown(default: object) -> str:
    match default:
        case None | ():
            return ""
        case bool():
            return str(default).lower()
        case float():
            return f"{default:g}"
        case tuple():
            return ",".join(map(str, default))
        case _:
            return str(default)
