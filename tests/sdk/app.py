"""Drives an app that is built on a Dapr SDK, in the SDK's own process and language.

One JSON object a line. To the app: {"do": "schedule" | "get" | "delete", "name": ...} with the job's fields, data in base64. From the
app: {"done": job or null} or {"error": text} for each command, in order, and {"trigger": name, "data": base64} as triggers arrive.
"""

import base64
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

from tests.support.processes import ROOT, Replica, Sidecar, answers, free_port, wait_until

JOBS = ["prod-db-backup", "takes", "fails", "fails-drop", "fails-constant", "fails-default"]
TOKENS = {"DAPR_API_TOKEN": "for-the-sidecar", "APP_API_TOKEN": "for-the-app"}


class Refused(Exception):
    """The SDK raised an error; its text."""


@dataclass(frozen=True)
class Sdk:
    """How to start an app on it, and what its jobs API can say."""

    name: str
    command: list[str]
    protocol: str = "grpc"
    overwrite: bool = True
    policies: bool = True
    durations: bool = True  # as due time and ttl, beside points in time
    type_urls: bool = True
    intervals: bool = True  # Java's reads back only what a retry interval has beside whole seconds

    def reads(self, policy: dict) -> dict:
        """How it shows a stored failure policy."""
        return policy if self.intervals or "drop" in policy else {**policy, "interval_seconds": 0}

    def receives(self, data: bytes) -> bytes:
        """What of these bytes arrives: an app over HTTP gets them without white space around them."""
        return data.strip() if self.protocol == "http" else data


class SdkApp:
    """A running app, its triggers as they arrive."""

    def __init__(self, sdk: Sdk, port: int, jobs: list[str], log: Path, env: dict[str, str]) -> None:
        self.sdk = sdk
        self.triggers: list[tuple[str, bytes]] = []
        self._answers: Queue[dict] = Queue()
        self._log = log
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [*sdk.command, str(port), *jobs],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                cwd=ROOT,
                env={**os.environ, **env},
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not line.startswith("{"):  # some SDKs log to their standard output
                continue
            said = json.loads(line)
            if "trigger" in said:
                self.triggers.append((said["trigger"], base64.b64decode(said["data"])))
            else:
                self._answers.put(said)
        self._answers.put({"error": f"the app ended; its log ends:\n{self._log.read_text(errors='replace')[-3000:]}"})

    def command(self, do: str, name: str, **fields) -> dict | None:
        """Raises Refused."""
        if isinstance(fields.get("data"), bytes):
            fields["data"] = base64.b64encode(fields["data"]).decode()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, "name": name, **fields}) + "\n")
        self._process.stdin.flush()
        said = self._answers.get(timeout=20)
        if "error" in said:
            raise Refused(said["error"])
        return said["done"]

    def schedule(self, name: str, **fields) -> None:
        self.command("schedule", name, **fields)

    def get(self, name: str) -> dict:
        job = self.command("get", name)
        assert job is not None
        if job.get("data") is not None:
            job["data"] = base64.b64decode(job["data"])
        return job

    def delete(self, name: str) -> None:
        self.command("delete", name)

    def gone(self, name: str) -> bool:
        """The job has finished, or was deleted: no trigger of it can come any more."""
        try:
            self.get(name)
        except Refused:
            return True
        return False

    def of(self, name: str) -> list[bytes]:
        """The data of its triggers so far."""
        return [data for one, data in list(self.triggers) if one == name]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(timeout=10)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()


@contextmanager
def beside_a_sidecar(sdk: Sdk, scheduler: Replica, directory: Path) -> Iterator[tuple[SdkApp, int]]:
    """An app and the port of its sidecar's metrics; both sides ask for API tokens."""
    port, metrics_port = free_port(), free_port()
    arguments = [f"--app-id={sdk.name.replace('.', '-')}", f"--app-port={port}", f"--app-protocol={sdk.protocol}"]
    sidecar = Sidecar(directory, [scheduler.address], *arguments, f"--metrics-port={metrics_port}", env=TOKENS)
    app = None
    try:
        sidecar.start()
        ports = {"DAPR_HTTP_PORT": str(sidecar.http_port), "DAPR_GRPC_PORT": str(sidecar.grpc_port)}
        app = SdkApp(sdk, port, JOBS, directory / "app.log", {**TOKENS, **ports})
        wait_until(lambda: answers(port), timeout_s=30, what=f"the app on {sdk.name} listens")
        yield app, metrics_port
    finally:
        if app is not None:
            app.close()
        sidecar.close()
