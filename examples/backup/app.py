"""The how-to's database backup, in plain Python: schedules `prod-db-backup` through its sidecar and receives each trigger.

Environment: APP_PORT, DAPR_HTTP_PORT (both given by whoever starts us), BACKUP_REPEATS (default 10).
"""

import json
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

APP_PORT = int(os.environ.get("APP_PORT", "6002"))
DAPR_HTTP_PORT = int(os.environ.get("DAPR_HTTP_PORT", "3500"))
REPEATS = int(os.environ.get("BACKUP_REPEATS", "10"))
JOB = "prod-db-backup"

received: list[float] = []
done = threading.Event()


class Handler(BaseHTTPRequestHandler):
    """POST /job/<name> is how a sidecar tells the app that a job is due."""

    def do_POST(self) -> None:
        arrived = datetime.now(UTC)
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        name = self.path.removeprefix("/job/")
        replica = self.headers.get("scheduler-replica", "?")
        late_ms = None
        scheduled = self.headers.get("scheduler-scheduled-time")
        if scheduled:
            seconds, _, fraction = scheduled.removesuffix("Z").partition(".")
            due = datetime.fromisoformat(f"{seconds}.{(fraction + '000000')[:6]}+00:00")
            late_ms = (arrived - due).total_seconds() * 1000
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
        received.append(late_ms if late_ms is not None else 0.0)
        shown = f"{late_ms:.1f} ms late" if late_ms is not None else "lateness unknown"
        print(
            f"trigger {len(received):2d}/{REPEATS}  POST {self.path}  {shown}  fired by {replica}  data {body.decode()}",
            flush=True,
        )
        if name == JOB and len(received) >= REPEATS:
            done.set()

    def log_message(self, *_args: object) -> None:
        """Quiet."""


def schedule() -> None:
    """Schedule the job as soon as the sidecar answers."""
    job = {
        "schedule": "@every 1s",
        "repeats": REPEATS,
        "data": {"db": "my-prod-db", "retention_days": 7},
        "overwrite": True,
    }
    url = f"http://127.0.0.1:{DAPR_HTTP_PORT}/v1.0/jobs/{JOB}"
    deadline = time.monotonic() + 60
    while True:
        request = urllib.request.Request(
            url, data=json.dumps(job).encode(), headers={"content-type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=35) as answer:
                print(f"scheduled {JOB} (@every 1s, {REPEATS} times): HTTP {answer.status}", flush=True)
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                sys.exit(f"the sidecar does not answer at {url}: {error}")
            time.sleep(0.2)


def main() -> None:
    """Serve, schedule, sum up."""
    server = ThreadingHTTPServer(("127.0.0.1", APP_PORT), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    schedule()
    if not done.wait(timeout=REPEATS + 60):
        sys.exit(f"only {len(received)} of {REPEATS} triggers arrived")
    late = sorted(received)
    print(
        f"summary: {len(received)} of {REPEATS} triggers of {JOB} received; "
        f"lateness median {late[len(late) // 2]:.1f} ms, worst {late[-1]:.1f} ms",
        flush=True,
    )
    if os.environ.get("EXIT_AFTER_SUMMARY"):
        return
    threading.Event().wait()


if __name__ == "__main__":
    main()
