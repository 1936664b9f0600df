"""Structured logs on the standard library: an event's name first, then its values, for people or as JSON.

Set up once by `configure`, never at import. Job data is never logged; control characters are escaped and long values cut.
"""

import json
import logging
import sys
from collections.abc import Callable
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any, TextIO

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}
_VALUE_MAX = 512
_ROOT = "scheduler"


class Logger:
    """`logger.info("event_name", key=value, ...)`."""

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        """`name` is the room's."""
        self._logger = logging.getLogger(f"{_ROOT}.{name}")

    def _log(self, level: int, event: str, fields: dict[str, Any], *, trace: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, event, extra={"fields": fields}, exc_info=trace)

    def debug(self, event: str, **fields: Any) -> None:
        """For whoever looks for a fault."""
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Something happened as it should."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something is wrong that mends itself."""
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Something is wrong that somebody must look at."""
        self._log(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """An error with the traceback of the exception being handled."""
        self._log(logging.ERROR, event, fields, trace=True)


def get_logger(name: str) -> Logger:
    """A room's logger."""
    return Logger(name)


def _text(value: object) -> str:
    text = str(value)
    if len(text) > _VALUE_MAX:
        text = text[:_VALUE_MAX] + "..."
    return text


# What lines of JSON have beside their own fields.
_added: list[Callable[[], dict[str, str]]] = []


def add_to_lines(read: Callable[[], dict[str, str]]) -> None:
    """From now on each line of JSON has what `read()` gives when it is written: the current trace."""
    if read not in _added:
        _added.append(read)


class _ConsoleFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", {})
        pairs = []
        for key, value in fields.items():
            text = _text(value)
            quoted = json.dumps(text) if not text or any(c in ' "=' or not c.isprintable() for c in text) else text
            pairs.append(f"{key}={quoted}")
        room = record.name.removeprefix(_ROOT + ".")
        line = f"{self.formatTime(record)} {record.levelname.lower():7} {room}[{record.process}]: {record.getMessage()} {' '.join(pairs)}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line.rstrip()


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname.lower(),
            "scope": record.name,
            "pid": record.process,
            "msg": record.getMessage(),
        }
        for read in _added:
            line.update(read())
        fields: dict[str, Any] = getattr(record, "fields", {})
        line.update((key, value if isinstance(value, int | float) else _text(value)) for key, value in fields.items())
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure(*, level: str, as_json: bool, stream: TextIO | None = None, file: Path | None = None) -> None:
    """Set the process's logging up: to a file (which may be moved away and is made anew), or a stream. Raises KeyError for an unknown level, or OSError."""
    handler = WatchedFileHandler(file) if file else logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter() if as_json else _ConsoleFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    set_level(level)


def set_level(level: str) -> None:
    """The least important lines that are logged, from now on. Raises KeyError for an unknown level."""
    logging.getLogger(_ROOT).setLevel(LEVELS[level])
