"""The tables of docs/settings.md, from the table of settings."""

from pathlib import Path

import click
from generators.chart import between

from scheduler.cli import config_file
from scheduler.cli.config import COMMANDS


def _row(key: str, option: click.Option, *, secret: bool) -> str:
    text, _, shown = (option.help or "").partition("  [default: ")
    default = shown.removesuffix("]")
    if not default and option.default not in {None, "", ()} and not secret:
        value = option.default
        default = f"`{','.join(value) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else value}`"
    others = (
        [name for name in option.envvar or () if not name.startswith("SCHEDULER_")]
        if not isinstance(option.envvar, str)
        else []
    )
    choices = f" ({', '.join(option.type.choices)})" if isinstance(option.type, click.Choice) else ""
    also = f" Also ${', $'.join(others)}." if others else ""
    return f"| `{key}` | {default} | {text}{choices}{also} |".replace("\\|", "|")


def files(root: Path) -> dict[str, str]:
    """What is generated."""
    path = "docs/settings.md"
    text = (root / path).read_text()
    for name, command in COMMANDS.items():
        keys = config_file.settings_of(command)
        rows = ["| setting | default | what it is |", "| --- | --- | --- |"]
        rows += [_row(key, option, secret=config_file.is_secret(key, keys)) for key, option in keys.items()]
        text = between(text, f"settings of {name}", "\n".join(rows))
    return {path: text}
