"""Settings of the daemons: frozen dataclasses whose fields carry default, unit and reason.

Precedence: flag, then `HEADROOM_*` environment variable, then file (YAML), then default. All problems are reported at once;
an unknown key in the file or an unknown `HEADROOM_*` variable of the daemon's own prefix fails.
"""

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml

from headroom.errors import HeadroomError
from headroom.units import UnitError, parse_duration_seconds

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}
# Kubernetes puts the address of every Service of a namespace into its pods under names such as HEADROOM_SCHEDULER_PORT.
_SERVICE_LINK = re.compile(r"SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?")
_SERVICE_ADDRESS = ("tcp://", "udp://", "sctp://")
_COMMON_ENVIRONMENT = {"HEADROOM_CACHE", "HEADROOM_TRACES"}


class SettingsError(HeadroomError):
    """One or more settings are wrong; the text has a line for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def setting(
    default: Any,
    *,
    reason: str,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A field of a settings dataclass. `reason` says what it is for and why the default is what it is; it becomes `--help`."""
    metadata = {"reason": reason, "unit": unit, "minimum": minimum, "maximum": maximum, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


def environment_name(cls: type[Any], field: str) -> str:
    """`SchedulerSettings.bind_port` -> `HEADROOM_SCHEDULER_BIND_PORT`."""
    return f"{_prefix(cls)}{field.upper()}"


def _prefix(cls: type[Any]) -> str:
    return f"HEADROOM_{cls.__name__.removesuffix('Settings').upper()}_"


def load(
    cls: type[T],
    flags: Mapping[str, Any] = types.MappingProxyType({}),
    env: Mapping[str, str] = types.MappingProxyType({}),
    file: str | Path | None = None,
) -> T:
    """Build the settings object. `flags` holds None for a flag that was not given. Raises SettingsError with every problem."""
    problems: list[str] = []
    from_file = _read_file(file, problems) if file is not None else {}
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls))}
    problems += [f"{file}: unknown key {key!r}" for key in from_file if key not in fields]
    env = {key: text for key, text in env.items() if not _is_service_link(_prefix(cls), key, text)}
    known_env = {environment_name(cls, name) for name in fields} | {f"{_prefix(cls)}CONFIG"} | _COMMON_ENVIRONMENT
    problems += [
        f"{key}: unknown environment variable" for key in env if key.startswith(_prefix(cls)) and key not in known_env
    ]
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        for source, raw in (
            (f"--{name.replace('_', '-')}", flags.get(name)),
            (environment_name(cls, name), env.get(environment_name(cls, name))),
            (f"{file}: {name}", from_file.get(name)),
        ):
            if raw is None:
                continue
            try:
                values[name] = _checked(_convert(raw, hints[name]), field)
            except (ValueError, UnitError) as error:
                problems.append(f"{source}: {error}")
            break
    if problems:
        raise SettingsError(problems)
    return cls(**values)


def _is_service_link(prefix: str, key: str, text: str) -> bool:
    if not key.startswith(prefix):
        return False
    return bool(_SERVICE_LINK.fullmatch(key.removeprefix(prefix))) or text.startswith(_SERVICE_ADDRESS)


def _read_file(file: str | Path, problems: list[str]) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"{file}: cannot be read: {error.strerror}")
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problems.append(f"{file}: is not YAML: {error}")
        return {}
    if content is None:
        return {}
    if not isinstance(content, dict):
        problems.append(f"{file}: must hold keys and values, not {type(content).__name__}")
        return {}
    return {str(key).replace("-", "_"): value for key, value in content.items()}


def _convert(raw: Any, hint: Any) -> Any:
    """Read `raw` (text from a flag or variable, or a YAML value) as the field's type. Raises ValueError or UnitError."""
    hint = _without_none(hint)
    if hint is bool:
        return _as_bool(raw)
    if hint is int:
        if isinstance(raw, bool) or not isinstance(raw, int | str):
            raise ValueError(f"{raw!r} is not a whole number")
        try:
            return int(raw)
        except ValueError as error:
            raise ValueError(f"{raw!r} is not a whole number") from error
    if hint is float:
        if isinstance(raw, int | float) and not isinstance(raw, bool):
            return float(raw)
        return _as_float(str(raw))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(raw)
    if typing.get_origin(hint) is tuple:
        parts = raw if isinstance(raw, list | tuple) else [part for part in str(raw).split(",") if part]
        return tuple(_convert(part, typing.get_args(hint)[0]) for part in parts)
    if not isinstance(raw, str):
        raise ValueError(f"{raw!r} is not text")
    return raw


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(option for option in typing.get_args(hint) if option is not type(None))
    return hint


def _as_bool(raw: Any) -> bool:
    if isinstance(raw, bool):
        return raw
    text = str(raw).lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise ValueError(f"{raw!r} is not true or false")


def _as_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return parse_duration_seconds(text)


def _checked(value: Any, field: "dataclasses.Field[Any]") -> Any:
    minimum, maximum, choices = (field.metadata.get(key) for key in ("minimum", "maximum", "choices"))
    unit = f" {field.metadata.get('unit')}" if field.metadata.get("unit") else ""
    if minimum is not None and not value >= minimum:
        raise ValueError(f"{value!r} is below {minimum}{unit}")
    if maximum is not None and not value <= maximum:
        raise ValueError(f"{value!r} is above {maximum}{unit}")
    if choices and value not in choices:
        raise ValueError(f"{value!r} is not one of {', '.join(choices)}")
    return value


def options(cls: type[Any]) -> Callable[[F], F]:
    """Click options for every field of a settings dataclass; each value arrives as text or None, for `load`."""

    hints = typing.get_type_hints(cls)
    # A yes-or-no setting can be named alone, which means yes.
    alone: dict[str, Any] = {"is_flag": False, "flag_value": "true"}

    def decorate(function: F) -> F:
        for field in reversed(dataclasses.fields(cls)):
            unit = f" [{field.metadata['unit']}]" if field.metadata.get("unit") else ""
            shown = field.default.value if isinstance(field.default, Enum) else field.default
            shown = ",".join(map(str, shown)) if isinstance(shown, tuple) else shown
            default = "" if shown in (None, "", ()) else f" Default: {shown}."
            choices = f" One of: {', '.join(field.metadata['choices'])}." if field.metadata.get("choices") else ""
            function = click.option(
                f"--{field.name.replace('_', '-')}",
                field.name,
                default=None,
                metavar="[true|false]" if hints[field.name] is bool else "VALUE",
                **(alone if hints[field.name] is bool else {}),
                help=f"{field.metadata.get('reason', '')}{unit}{choices}{default} ({environment_name(cls, field.name)})",
            )(function)
        return function

    return decorate
