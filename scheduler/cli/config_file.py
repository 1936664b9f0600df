"""The file of settings: YAML, a key for each flag of the command. What cannot be is told with its line, all of it at once.

And the environment, as far as it holds names that are no settings.
"""

import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import yaml

from scheduler.config import ConfigError

PARAMETER = "config_file"
_META = "scheduler.config_file"
_JSON_TYPES = {"integer": "integer", "float": "number", "boolean": "boolean"}
# What YAML gives for each kind, and how it is called.
_FITS: dict[str, tuple[Any, str]] = {
    "boolean": (bool, "true or false"),
    "integer": (int, "a whole number"),
    "number": ((int, float), "a number"),
    "string": (str, "a text"),
    "quantity": ((int, str), "a number, with or without a unit"),
    "array": ((), "a list of texts"),
}
# What the kubelet and Docker's links set for a service that happens to be called scheduler-serve or scheduler-sidecar-...
_OF_A_SERVICE = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_URL_OF_A_SERVICE = re.compile(r"(tcp|udp|sctp)://")


class Entry(NamedTuple):
    """A value of the file, and where it stands."""

    value: Any
    line: int


def option(command: str) -> click.Option:
    """--config-file; the values in the file become the command's defaults."""
    return click.Option(
        ["--config-file", PARAMETER],
        type=click.Path(path_type=Path),
        default=None,
        is_eager=True,
        envvar=f"SCHEDULER_{command}_CONFIG_FILE",
        callback=_load,
        help="File of settings: YAML, with the names of flags as keys. Flags and environment go before it.",
    )


def _load(ctx: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    if ctx.parent is None or PARAMETER not in ctx.parent.params:
        try:
            check_environment(ctx.command)
        except ConfigError as error:
            raise click.ClickException(str(error)) from error
    if path is None and ctx.parent is not None:
        # `scheduler sidecar --config-file f run`: the flag may stand before the subcommand.
        path = ctx.parent.params.get(PARAMETER)
    if path is None:
        return None
    try:
        entries = read(path, ctx.command)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    ctx.meta[_META] = (path, entries)
    ctx.default_map = {name: entry.value for name, entry in entries.items()}
    return path


def check_environment(command: click.Command) -> None:
    """Raises ConfigError for variables that bear the command's name and are none of its settings: they are misspelt, and would have no effect."""
    prefix = f"SCHEDULER_{command.name}_".upper()
    settings = {
        name
        for option in settings_of(command).values()
        for name in option.envvar or ()
        if name.startswith(prefix) and len(name) > len(prefix)
    }
    known = {*settings, *_automatic(command, prefix)}
    problems = []
    for name, value in sorted(os.environ.items()):
        if not name.startswith(prefix) or name in known or _OF_A_SERVICE.fullmatch(name):
            continue
        if name.endswith("_PORT") and _URL_OF_A_SERVICE.match(value):
            continue
        near = difflib.get_close_matches(name, settings, 1, cutoff=0.8)
        problems.append(f"{name}: there is no such setting" + (f"; did you mean {near[0]}?" if near else ""))
    if problems:
        raise ConfigError("\n".join(problems))


def _automatic(command: click.Command, prefix: str) -> Iterator[str]:
    """What click itself reads: by the parameters' names, subcommands' behind theirs."""
    for parameter in command.params:
        yield f"{prefix}{parameter.name}".upper()
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            yield from _automatic(one, f"{prefix}{name}_".upper())


def settings_of(command: click.Command) -> dict[str, click.Option]:
    """The options that a file may set, by their keys: all but what is only for the command line."""
    return {
        option.opts[0].removeprefix("--"): option
        for option in command.params
        if isinstance(option, click.Option)
        and not option.hidden
        and option.expose_value
        and option.name not in {PARAMETER, "wait"}
    }


def is_secret(key: str, keys: dict[str, click.Option]) -> bool:
    """Whether a value is secret: what has a file of its own for its value."""
    return f"{key}-file" in keys


def read(path: Path, command: click.Command) -> dict[str, Entry]:
    """The values in a file, by the names of the command's parameters. Raises ConfigError with all that is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--config-file: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no UTF-8 text: {error.reason}") from error
    entries, problems = _entries(path, text), []
    known, found = settings_of(command), {}
    lines: dict[str, int] = {}
    for key, entry in entries:
        try:
            if key in lines:
                raise ConfigError(f"{key} stands on line {lines[key]} already")  # noqa: TRY301 - told with the others
            lines[key] = entry.line
            if entry.value is not None:
                parameter = _known(key, known)
                assert parameter.name is not None
                found[parameter.name] = Entry(_converted(key, entry.value, parameter), entry.line)
        except ConfigError as error:
            problems.append(f"{path}:{entry.line}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return found


def _entries(path: Path, text: str) -> list[tuple[str, Entry]]:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            return []
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError(
                f"{path}:{root.start_mark.line + 1}: settings are keys with values, such as `log-level: info`"
            )
        loader = yaml.SafeLoader("")
        return [
            (
                str(loader.construct_object(key, deep=True)),
                Entry(loader.construct_object(value, deep=True), key.start_mark.line + 1),
            )
            for key, value in root.value
        ]
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: is no YAML: {error.problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: is no YAML: {error}") from error


def _known(key: str, known: dict[str, click.Option]) -> click.Option:
    if key not in known:
        near = difflib.get_close_matches(key.lower().replace("_", "-"), known, 1)
        raise ConfigError(f"{key}: there is no such setting" + (f"; did you mean {near[0]}?" if near else ""))
    if is_secret(key, known):
        raise ConfigError(
            f"{key}: a secret has no place in this file: write it into a file of its own, and give {key}-file"
        )
    return known[key]


def _converted(key: str, value: Any, parameter: click.Option) -> Any:
    """The value as the flag would give it. Raises ConfigError."""
    kind = _json_type(parameter)
    if kind == "array" and isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(value) if parameter.multiple else ",".join(value)
    if kind == "array" and isinstance(value, str):
        return (value,) if parameter.multiple else value
    classes, allowed = _FITS[kind]
    # To Python true is a number.
    if not isinstance(value, classes) or (isinstance(value, bool) and classes is not bool):
        raise ConfigError(f"{key} is {value!r}, allowed is {allowed}")
    try:
        parameter.type.convert(value, parameter, None)
    except click.BadParameter as error:
        raise ConfigError(f"{key}: {error.message}") from error
    return value


def _json_type(parameter: click.Option) -> str:
    if parameter.multiple or parameter.type.name == "list":
        return "array"
    if parameter.type.name in {"size", "quantity", "duration"}:
        return "quantity"
    return _JSON_TYPES.get(parameter.type.name.removesuffix(" range"), "string")


def values(command: click.Command, entries: dict[str, Entry]) -> dict[str, Any]:
    """All values of a command by these entries and defaults, without a look at flags and environment."""
    ctx = click.Context(command)
    found: dict[str, Any] = {}
    for option in command.params:
        if isinstance(option, click.Option) and option.expose_value and option.name:
            entry = entries.get(option.name)
            found[option.name] = option.type_cast_value(ctx, entry.value if entry else option.get_default(ctx))
    return found


def schema(command: click.Command) -> dict[str, Any]:
    """The JSON schema (draft 7) of a command's file of settings."""
    known = settings_of(command)
    properties = {key: schema_of(option) for key, option in sorted(known.items()) if not is_secret(key, known)}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": f"Settings of scheduler {command.name}",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }


def schema_of(parameter: click.Option) -> dict[str, Any]:
    """The schema of one setting."""
    kind = _json_type(parameter)
    found: dict[str, Any] = {"description": parameter.help or parameter.opts[0].removeprefix("--")}
    match kind:
        case "array":
            found |= {"type": ["array", "string"], "items": {"type": "string"}}
        case "quantity":
            found |= {"type": ["integer", "string"]}
        case _:
            found |= {"type": kind}
    if isinstance(parameter.type, click.Choice):
        found["enum"] = list(parameter.type.choices)
    return found


def variable(ctx: click.Context, parameter: click.Option) -> str:
    """The environment variable that gave a value."""
    names = [parameter.envvar] if isinstance(parameter.envvar, str) else list(parameter.envvar or ())
    if ctx.auto_envvar_prefix and parameter.name:
        names.append(f"{ctx.auto_envvar_prefix}_{parameter.name.upper()}")
    return next((name for name in names if os.environ.get(name)), "")


def place(ctx: click.Context, parameter: click.Option) -> str:
    """File and line that gave a value."""
    path, entries = ctx.meta.get(_META, (None, {}))
    return f"{path}:{entries[parameter.name].line}" if parameter.name in entries else ""
