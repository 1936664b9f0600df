"""A client of the scheduler in a process of its own, in any language, on any gRPC library.

Started with `ADDRESS APP_ID [CA CERTIFICATE KEY]`, it says in lines of JSON what it sees:

- `{"hosts": 1}` after WatchHosts' first answer;
- `{"watching": true}` whenever a WatchJobs stream stands, `{"broken": "Unavailable"}` when it has ended: it makes another at once;
- `{"again": "AlreadyExists"}` when it has scheduled `tick` (every 250 ms, four bytes of data) and then tried once more;
- `{"got": "@every 250ms", "listed": ["tick"]}` from GetJob and ListJobs;
- `{"trigger": "tick", "index": 0, "data": "AAH+/w=="}` for each trigger, which it acknowledges;
- `{"deleted": true}`, after a line on its standard input: it has deleted the job, and GetJob says NOT_FOUND. Then it ends.
"""

import json
import os
import subprocess
import threading
from pathlib import Path

from tests.support.processes import ROOT


class SchedulerClient:
    """The process and what it has said."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.said: list[dict] = []
        self._log = log
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said.append(json.loads(line))

    def heard(self, key: str) -> list:
        """All it has said under this key, in order."""
        return [line[key] for line in list(self.said) if key in line]

    @property
    def log(self) -> str:
        return f"said {self.said[-20:]}; its log ends:\n{self._log.read_text(errors='replace')[-2000:]}"

    def finish(self) -> int:
        """Have it delete its job and end; its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        code = self._process.wait(30)
        self._reader.join(timeout=10)
        return code

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(timeout=10)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
