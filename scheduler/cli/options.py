"""Flags from the table of settings (`scheduler.config`), and settings from flags, environment and the file of settings, in this order."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from scheduler.cli import config_file
from scheduler.config import Setting, settings_table
from scheduler.core.duration import parse_go_duration

F = TypeVar("F", bound=Callable[..., Any])

_QUANTITY = re.compile(r"(\d+)(Ki|Mi|Gi|k|M|G|)")
_SCALE = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "k": 1000, "M": 1000**2, "G": 1000**3}


class _List(click.ParamType[tuple[str, ...]]):
    """Texts, comma separated."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        del param, ctx
        parts = value.split(",") if isinstance(value, str) else value
        return tuple(part.strip() for part in parts if part.strip())


class _Size(click.ParamType[int]):
    """Bytes, with Kubernetes' suffixes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = _QUANTITY.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"{value!r} is no size: bytes, or a number with Ki, Mi, Gi, k, M or G", param, ctx)
        return int(found[1]) * _SCALE[found[2]]


class _Duration(click.ParamType[float]):
    """Go's durations, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        try:
            return parse_go_duration(value) / 1e9
        except ValueError as error:
            self.fail(f"{value!r} is no duration such as 10s: {error}", param, ctx)


SIZE, DURATION = _Size(), _Duration()
_TYPES: dict[str, click.ParamType[Any]] = {
    "switch": click.BOOL,
    "integer": click.INT,
    "number": click.FLOAT,
    "text": click.STRING,
    "path": click.Path(path_type=Path),
    "list": _List(),
    "size": SIZE,
    "duration": DURATION,
}


class SettingOption(click.Option):
    """The flag of one row."""

    def __init__(self, row: Setting, command: str) -> None:
        """`command` gives the environment variable its name."""
        self.row = row
        variable = f"SCHEDULER_{command}_{row.flag}".upper().replace("-", "_")
        more: dict[str, Any] = {}
        if row.kind == "switch":
            # `--flag` and `--flag=false`, as in the reference.
            more = {"is_flag": False, "flag_value": True}
        kind = click.Choice(row.choices) if row.choices else _TYPES["text" if row.repeatable else row.kind]
        super().__init__(
            [f"--{row.flag}", row.field],
            type=kind,
            default=row.default,
            show_default=row.shown is None and row.default not in {None, "", ()},
            help=f"{row.text}  [default: {row.shown}]" if row.shown else row.text,
            envvar=[variable, *row.environment],
            multiple=row.repeatable,
            **more,
        )


def options(kind: type, command: str) -> Callable[[F], F]:
    """Declare the flags of a settings class on a click command, and --config-file, whose values stand behind flags and environment."""

    def declare(function: F) -> F:
        declared = getattr(function, "__click_params__", [])
        rows = [SettingOption(row, command) for row in settings_table(kind)]
        function.__click_params__ = [*declared, *reversed([*rows, config_file.option(command)])]  # type: ignore[attr-defined]
        return function

    return declare


def origins(ctx: click.Context) -> Iterator[tuple[click.Option, str]]:
    """Where each value of a command comes from: flag, environment and the variable, file and the line, or default."""
    source = click.core.ParameterSource
    for parameter in ctx.command.params:
        if not isinstance(parameter, click.Option) or parameter.name is None or not parameter.expose_value:
            continue
        match ctx.get_parameter_source(parameter.name):
            case source.COMMANDLINE:
                yield parameter, "flag"
            case source.ENVIRONMENT:
                yield parameter, f"environment {config_file.variable(ctx, parameter)}"
            case source.DEFAULT_MAP:
                yield parameter, f"file {config_file.place(ctx, parameter)}"
            case _:
                yield parameter, "default"
