"""A whole terminal for one command, given back as it was found however the command ends."""

import asyncio
import os
import re
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import click

# The alternate screen leaves what was there before untouched; the cursor is hidden; long lines are cut, not wrapped.
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
# Arrow keys and their kin begin with Escape, too.
_OTHER_KEYS = re.compile(rb"\x1b(\[[0-9;]*[A-Za-z~]|O.)")
_QUIT = frozenset(b"qQ\x03\x04\x1b")

Line = str | tuple[str, dict[str, object]]
"""One line, with click's styles if it has any."""


class Screen:
    """Draws frames, and hears when the person wants to leave or the window changes."""

    def __init__(self) -> None:
        """Made by `screen`."""
        self.quit = asyncio.Event()
        # There is something to look at, which may be that the person quits, or the window's new size.
        self.redraw = asyncio.Event()

    def draw(self, lines: Sequence[Line]) -> None:
        """One frame in one write; what does not fit is cut off."""
        size = os.get_terminal_size(sys.stdout.fileno())
        coloured = not os.environ.get("NO_COLOR")
        shown = []
        for line in lines[: size.lines]:
            text, style = line if isinstance(line, tuple) else (line, {})
            text = text[: size.columns]
            shown.append(click.style(text, **style) if style and coloured else text)  # type: ignore[arg-type]
        sys.stdout.write(_HOME + "".join(f"{line}{_REST_OF_LINE}\r\n" for line in shown[:-1]))
        sys.stdout.write("".join(shown[-1:]) + _REST_OF_LINE + _REST_OF_SCREEN)
        sys.stdout.flush()


@contextmanager
def screen() -> Iterator[Screen]:
    """Take the terminal over; `q`, Escape, Ctrl-C, Ctrl-D, SIGINT and SIGTERM all mean quit. Needs a running loop, and a terminal on both sides."""
    one = Screen()
    loop, keys = asyncio.get_running_loop(), sys.stdin.fileno()

    def leave() -> None:
        one.quit.set()
        one.redraw.set()

    def pressed() -> None:
        data = os.read(keys, 64)
        # Nothing at all: the terminal is gone.
        if not data or _QUIT.intersection(_OTHER_KEYS.sub(b"", data)):
            leave()

    before = termios.tcgetattr(keys)
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    try:
        tty.setcbreak(keys)
        _without_suspending(keys)
        loop.add_reader(keys, pressed)
        for number in signals:
            loop.add_signal_handler(number, leave)
        loop.add_signal_handler(signal.SIGWINCH, one.redraw.set)
        sys.stdout.write(_ENTER)
        sys.stdout.flush()
        yield one
    finally:
        loop.remove_reader(keys)
        for number in (*signals, signal.SIGWINCH):
            loop.remove_signal_handler(number)
        # A terminal that is gone needs nothing.
        with suppress(OSError, termios.error):
            sys.stdout.write(_LEAVE)
            sys.stdout.flush()
            termios.tcsetattr(keys, termios.TCSADRAIN, before)


def _without_suspending(keys: int) -> None:
    """Ctrl-Z would leave the shell with our screen."""
    attributes = termios.tcgetattr(keys)
    attributes[6][termios.VSUSP] = b"\0"
    termios.tcsetattr(keys, termios.TCSANOW, attributes)
