"""One setting as a row of the table: its flag, its kind, its default, and what it is for."""

from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_type_hints

LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")
Kind = Literal["switch", "integer", "number", "text", "path", "list", "size", "duration"]
_KINDS: dict[Any, Kind] = {
    bool: "switch",
    int: "integer",
    float: "number",
    str: "text",
    Path: "path",
    tuple[str, ...]: "list",
}
_KEY = "setting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A row. `field` is the name in code, `flag` the name for users: without dashes before it, it is the key in files."""

    field: str
    flag: str
    kind: Kind
    default: Any
    text: str
    # The default as users read it, where it is no single value.
    shown: str | None
    choices: tuple[str, ...]
    # Environment variables besides SCHEDULER_<COMMAND>_<FLAG>.
    environment: tuple[str, ...]
    repeatable: bool
    # Whether a change in the file takes effect without a restart.
    live: bool


def setting(
    default: Any,
    text: str,
    *,
    flag: str | None = None,
    shown: str | None = None,
    choices: tuple[str, ...] = (),
    environment: tuple[str, ...] = (),
    unit: Literal["size", "duration"] | None = None,
    repeatable: bool = False,
    live: bool = False,
) -> Any:
    """A field of a settings class that users can set; its flag is its name unless one is given."""
    row = {"flag": flag, "text": text, "shown": shown, "choices": choices, "environment": environment}
    return field(default=default, metadata={_KEY: {**row, "unit": unit, "repeatable": repeatable, "live": live}})


def required(text: str) -> Any:
    """A field without a default."""
    return setting(MISSING, text)


@cache
def settings_table(kind: type) -> tuple[Setting, ...]:
    """The rows of a settings class, in its order. Fields that users cannot set are none."""
    rows = []
    hints = get_type_hints(kind)
    for one in fields(kind):
        if (row := dict(one.metadata.get(_KEY, {}))) == {}:
            continue
        (annotation,) = (
            {part for part in getattr(hints[one.name], "__args__", ()) if part is not type(None)}
            if type(None) in getattr(hints[one.name], "__args__", ())
            else {hints[one.name]}
        )
        unit, flag = row.pop("unit"), row.pop("flag") or one.name.replace("_", "-")
        default = None if one.default is MISSING else one.default
        rows.append(Setting(field=one.name, flag=flag, kind=unit or _KINDS[annotation], default=default, **row))
    return tuple(rows)
