"""What commands print: tables for people, JSON and YAML for programs; and with which code they end."""

import json
import os
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, NoReturn

import click

OUTPUTS = ("table", "json", "yaml")


# Where no terminal shows a bar, long work says now and then how far it is.
_PROGRESS_PERIOD_S = 5.0


class Exit(IntEnum):
    """What a command's exit code says. docs/commands.md and `scheduler --help` tell of them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_FOUND = 4
    DENIED = 5
    INTERRUPTED = 130


EXIT_CODES = """Exit codes: 0 done; 1 it failed or was refused; 2 the command line is wrong; 3 no server answers; 4 there is no such
thing; 5 not permitted; 130 interrupted."""

output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(OUTPUTS),
    default="table",
    show_default=True,
    help="table is for people, json and yaml are for programs.",
)


def show(output: str, document: Any, *, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print one answer: the document for programs, or the table of the same."""
    if output == "table":
        print_table(header, rows)
    else:
        print_document(output, document)


def print_document(output: str, document: Any) -> None:
    """Print JSON or YAML; keys stay in their order."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    if output == "json":
        click.echo(text)
        return
    import yaml

    # By way of JSON, so that both say the same of every kind of value.
    click.echo(yaml.safe_dump(json.loads(text), sort_keys=False, allow_unicode=True, width=120), nl=False)


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print aligned columns; None is an empty cell. The header is bold where a person looks."""
    for number, line in enumerate(table_lines(header, rows)):
        echo(line, bold=number == 0)


def table_lines(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table, its header first."""
    cells = [[printable("" if cell is None else str(cell)) for cell in row] for row in (header, *rows)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    padded = ((cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return ["  ".join(row).rstrip() for row in padded]


def echo(text: str, **style: Any) -> None:
    """Print a line, with click's styles where a terminal shows it and NO_COLOR is not set."""
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    click.echo(click.style(text, **style) if coloured else text)


def say(text: str) -> None:
    """Tell the person on standard error, so that pipes carry results alone."""
    click.echo(text, err=True)


def fail(text: str, code: Exit = Exit.FAILED) -> NoReturn:
    """End with an error, as one line that says what is wrong and what to do."""
    say(f"scheduler: {text}")
    sys.exit(code)


@contextmanager
def progress(label: str, length: int) -> Iterator[Callable[[], object]]:
    """Call what it gives once for each thing that is done: a bar on a terminal, else a line now and then."""
    if sys.stderr.isatty():
        with click.progressbar(length=length, label=label, file=sys.stderr, show_pos=True) as bar:
            yield lambda: bar.update(1)
        return
    done, told = 0, time.monotonic()

    def advance() -> None:
        nonlocal done, told
        done += 1
        if time.monotonic() - told > _PROGRESS_PERIOD_S:
            told = time.monotonic()
            say(f"{label}: {done:,} of {length:,}")

    yield advance


def printable(text: str) -> str:
    """The text with nothing in it that moves a terminal's cursor: names and errors come from others."""
    return text if text.isprintable() else "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


# Quantities, as people read them


def instant(unix_ms: int) -> str:
    """RFC 3339 in UTC."""
    return datetime.fromtimestamp(unix_ms // 1000, UTC).isoformat().replace("+00:00", "Z")


def duration(seconds: float) -> str:
    """Its two largest units."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for unit, unit_s in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, left = divmod(left, unit_s)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return "".join(parts[:2])


def milliseconds(value: float | None) -> str:
    """None is a dash: nothing has been measured."""
    return "-" if value is None else f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"


def size(count: float) -> str:
    """Bytes."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"


def _width(text: str) -> int:
    """Columns that a terminal takes for it."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(one) else 1 + (unicodedata.east_asian_width(one) in "WF") for one in text)
