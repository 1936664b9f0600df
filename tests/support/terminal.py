"""A terminal with a person's eyes: a command runs on a pty, and what it writes is drawn as a terminal would draw it."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from typing import Self

import pyte

from tests.support.processes import ROOT


class Terminal:
    """One command of ours, or another `program`, on a pty of its own. Leaving the block ends it."""

    def __init__(
        self,
        *arguments: str,
        columns: int = 140,
        lines: int = 30,
        env: dict[str, str] | None = None,
        program: Sequence[str] = (sys.executable, "-m", "scheduler"),
    ) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self._master, self._slave = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self._slave)
        environment = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "COLUMNS", "LINES"}}
        self.process = subprocess.Popen(
            # A session of its own with this terminal, so that Ctrl-C and a hang-up reach it as they reach a person's command.
            ["setsid", "--ctty", *program, *arguments],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            cwd=ROOT,
            env={**environment, "TERM": "xterm-256color", **(env or {})},
        )

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def hang_up(self) -> None:
        """The window is closed."""
        os.close(self._slave)
        os.close(self._master)
        self._master = self._slave = -1

    @property
    def text(self) -> str:
        """What is to be seen."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def line(self, start: str) -> str:
        """The first line that begins so; empty where there is none."""
        return next((line for line in self.text.splitlines() if line.startswith(start)), "")

    def _read(self, timeout_s: float) -> bool:
        """Take in what there is; False: nothing came."""
        if not select.select([self._master], [], [], timeout_s)[0]:
            return False
        data = os.read(self._master, 65_536)
        self.raw += data
        self._stream.feed(data)
        return True

    def wait_for(self, text: str, timeout_s: float = 15.0) -> str:
        """Until the text is to be seen; the whole screen."""
        deadline = time.monotonic() + timeout_s
        while text not in self.text:
            left = deadline - time.monotonic()
            ended = self.process.poll() is not None
            if left <= 0 or (not self._read(0.05 if ended else min(left, 0.5)) and ended):
                raise AssertionError(f"{text!r} is not to be seen (exit code {self.process.poll()}):\n{self.text}")
        return self.text

    def wait(self, timeout_s: float = 15.0) -> int:
        """Until it has ended and all has been read; its exit code."""
        deadline = time.monotonic() + timeout_s
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                raise AssertionError(f"it goes on:\n{self.text}")
            if self._master >= 0:
                self._read(0.05)
            else:
                time.sleep(0.02)
        while self._master >= 0 and self._read(0.05):
            pass
        return self.process.returncode

    def check_sane(self) -> None:
        """The terminal is as it was: modes of the line, its own screen, a cursor, lines that wrap."""
        assert termios.tcgetattr(self._slave) == self.before
        for on, off in ((b"\x1b[?1049h", b"\x1b[?1049l"), (b"\x1b[?25l", b"\x1b[?25h"), (b"\x1b[?7l", b"\x1b[?7h")):
            assert self.raw.count(on) == self.raw.count(off) and self.raw.rfind(on) <= self.raw.rfind(off), (on, off)
        assert not self.screen.cursor.hidden

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for descriptor in (self._master, self._slave):
            if descriptor >= 0:
                os.close(descriptor)
