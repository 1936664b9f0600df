"""The how-to's database backup on the Dapr SDK for Python: schedules `prod-db-backup` and receives each trigger, both over gRPC.

Environment: APP_PORT, DAPR_HTTP_PORT, DAPR_GRPC_PORT (given by whoever starts us), BACKUP_REPEATS (default 10).
"""

import json
import os
import threading

from dapr.clients import DaprClient, Job
from dapr.ext.grpc import App, JobEvent
from google.protobuf.any_pb2 import Any

JOB = "prod-db-backup"
REPEATS = int(os.environ.get("BACKUP_REPEATS", "10"))

app = App()
received: list[dict] = []
done = threading.Event()


@app.job_event(JOB)
def back_up(event: JobEvent) -> None:
    """The job is due. Returning takes the trigger; raising has it come again."""
    task = json.loads(event.get_data_as_string())
    received.append(task)
    print(f"trigger {len(received):2d}/{REPEATS}  {event.name}  data {json.dumps(task)}", flush=True)
    if len(received) == REPEATS:
        done.set()


def main() -> None:
    """Serve, schedule, wait for the last trigger."""
    port = int(os.environ.get("APP_PORT", "6002"))
    threading.Thread(target=app.run, args=(port, "127.0.0.1"), daemon=True).start()
    task = Any(value=json.dumps({"db": "my-prod-db", "retention_days": 7}).encode())
    with DaprClient() as dapr:
        dapr.schedule_job(Job(name=JOB, schedule="@every 1s", repeats=REPEATS, data=task), overwrite=True)
        print(f"scheduled {dapr.get_job(JOB)}", flush=True)
    if not done.wait(timeout=REPEATS + 60):
        raise SystemExit(f"only {len(received)} of {REPEATS} triggers arrived")
    app.stop()


if __name__ == "__main__":
    main()
