"""Does what a page of the documentation says, as a reader would: its files are written, its commands typed, its output compared.

A fence ```console is typed: `$ ` begins a command, other lines are what it prints, where `...` stands for anything (alone on a line: for any lines);
`^C` is Ctrl-C, and `^\\` Ctrl-\\, which kills. Without output nothing is compared. Each `title="Terminal 2"` is a terminal of its own, whose command may
stay: then what it has printed so far is compared. A fence with a file's name as its title is that file. Other fences (```bash) are for readers;
test_pages.py checks their commands otherwise.

Run by reader.py as `python -m tests.docs.console PAGE DIRECTORY` in a network namespace of its own, so that pages can use the usual ports.
"""

import fcntl
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

TIMEOUT_S = 40.0
_FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_MARK = "\x1e"
_KEYS = {"^C": signal.SIGINT, "^\\": signal.SIGQUIT}


class Step(NamedTuple):
    """One thing to do: a command (or a key) in a terminal with what it should print, or a file to write."""

    terminal: str
    command: str
    expected: str
    file: str = ""


def steps(text: str) -> list[Step]:
    """What a page has its reader do, in order."""
    found = []
    for language, title, body in _FENCE.findall(text):
        if language == "console":
            for part in re.split(r"^(?=\$ |\^.$)", body, flags=re.MULTILINE):
                if part:
                    # A fence that begins with output goes on with what the terminal's last command prints.
                    command, _, expected = part.partition("\n") if part[0] in "$^" else ("...", "", part)
                    found.append(Step(title, command.removeprefix("$ "), expected.rstrip("\n")))
        elif title and re.fullmatch(r"[\w.-]+\.\w+", title):
            found.append(Step("", "", body, title))
    return found


def pattern(expected: str) -> str:
    """The expected output as a regular expression."""
    lines = []
    for line in expected.split("\n"):
        if line.strip() == "...":
            lines.append(r"(?:[^\n]*\n)*?")
        else:
            lines.append(r"[^\n]*".join(re.escape(part) for part in line.rstrip().split("...")) + r"[ \t]*(?:\n|$)")
    return "".join(lines)


class Terminal:
    """A shell of its own, and what has been printed there."""

    def __init__(self, directory: Path, name: str) -> None:
        self.log = directory / f".terminal {name or 'main'}"
        self.shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=self.log.open("wb"),
            stderr=subprocess.STDOUT,
            cwd=directory,
            start_new_session=True,
            env={**os.environ, "TERM": "dumb", "COLUMNS": "120"},
        )
        # Each command is a process group, as in a real terminal, so that Ctrl-C reaches it alone.
        self._write("set -m")
        self.busy = False
        self.stays = bool(name)
        # How far what was printed has been compared.
        self.position = 0

    def _write(self, line: str) -> None:
        assert self.shell.stdin is not None
        self.shell.stdin.write(f"{line}\n".encode())
        self.shell.stdin.flush()

    def printed(self) -> str:
        """What has come since the last comparison."""
        return self.log.read_bytes()[self.position :].decode("utf-8", "replace")

    def do(self, step: Step) -> None:
        """Type a command, press a key, or go on with the command that stays; raises AssertionError where the page does not keep its word."""
        if step.command in _KEYS:
            for child in self._children():
                os.killpg(child, _KEYS[step.command])
        elif step.command != "...":
            if self.busy:
                self._wait(step._replace(command="...", expected=""))
            self._write(f"{step.command}\nprintf '{_MARK}%s\\n' $?")
            self.busy = True
        self._wait(step)

    def _wait(self, step: Step) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not self._satisfied(step):
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"$ {step.command}\nafter {TIMEOUT_S:.0f} s has printed\n{self.printed()}\nexpected\n{step.expected}"
                )
            time.sleep(0.02)

    def _satisfied(self, step: Step) -> bool:
        text = self.printed()
        printed, ended, status = text.partition(_MARK)
        if ended and "\n" in status:
            code, matches = status.split("\n")[0], re.fullmatch(pattern(step.expected), printed)
            self.busy, self.position = False, self.position + len(text.encode())
            assert not step.expected or matches, f"$ {step.command}\nprinted\n{printed}\nexpected\n{step.expected}"
            assert code == "0" or step.command in {*_KEYS, "..."}, f"$ {step.command}\nended with {code}\n{printed}"
            return True
        if (
            self.stays
            and step.command not in _KEYS
            and step.expected
            and (match := re.match(pattern(step.expected), printed))
        ):
            self.position += len(printed[: match.end()].encode())
            return True
        return False

    def _children(self) -> list[int]:
        return [int(one) for one in Path(f"/proc/{self.shell.pid}/task/{self.shell.pid}/children").read_text().split()]

    def close(self) -> None:
        """Close the window: everything in it is killed."""
        for child in self._children() if self.shell.poll() is None else ():
            os.killpg(child, signal.SIGKILL)
        self.shell.kill()
        self.shell.wait()


def follow(text: str, directory: Path) -> None:
    """Do all of a page."""
    terminals: dict[str, Terminal] = {}
    try:
        for step in steps(text):
            if step.file:
                (directory / step.file).write_text(step.expected)
                continue
            if step.terminal not in terminals:
                terminals[step.terminal] = Terminal(directory, step.terminal)
            terminals[step.terminal].do(step)
    finally:
        for terminal in terminals.values():
            terminal.close()


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))


def main() -> int:
    """The command."""
    page, directory = map(Path, sys.argv[1:])
    _loopback_up()
    try:
        follow(page.read_text(), directory)
    except AssertionError as error:
        print(f"{page}: {error}")
        for log in sorted(directory.glob(".terminal *")):
            print(f"--- {log.name.removeprefix('.terminal ')}\n{log.read_text(errors='replace')[-2000:]}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
