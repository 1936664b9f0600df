"""An app on the Dapr SDK for Python, told what to do line by line (see tests/sdk/app.py).

Runs in an environment of the SDK's own: `python app.py sync|asyncio PORT JOB...` handles those jobs, and fails those called fail*.
"""

import asyncio
import base64
import json
import sys
import threading

from dapr.aio.clients import DaprClient as AsyncDaprClient
from dapr.clients import ConstantFailurePolicy, DaprClient, DropFailurePolicy, Job
from dapr.ext.grpc import App, JobEvent
from google.protobuf.any_pb2 import Any

_speaking = threading.Lock()


def say(line: dict) -> None:
    with _speaking:
        print(json.dumps(line), flush=True)


def serve(port: int, names: list[str]) -> None:
    app = App()

    def handle(event: JobEvent) -> None:
        say({"trigger": event.name, "data": base64.b64encode(event.data or b"").decode()})
        if event.name.startswith("fail"):
            raise RuntimeError("this job fails")

    for name in names:
        app.job_event(name)(handle)
    app.run(port)


def job_of(command: dict) -> Job:
    data = policy = None
    if (encoded := command.get("data")) is not None:
        data = Any(type_url=command.get("type_url", ""), value=base64.b64decode(encoded))
    if (wanted := command.get("policy")) is not None:
        policy = DropFailurePolicy() if "drop" in wanted else ConstantFailurePolicy(**wanted)
    fields = {key: command.get(key) for key in ("schedule", "repeats", "due_time", "ttl")}
    return Job(name=command["name"], data=data, failure_policy=policy, **fields)


def plain(job: Job) -> dict:
    policy = job.failure_policy
    if isinstance(policy, DropFailurePolicy):
        shown = {"drop": True}
    elif isinstance(policy, ConstantFailurePolicy):
        shown = {"interval_seconds": policy.interval_seconds, "max_retries": policy.max_retries}
    else:
        shown = None
    return {
        "name": job.name,
        "schedule": job.schedule,
        "repeats": job.repeats,
        "due_time": job.due_time,
        "ttl": job.ttl,
        "data": base64.b64encode(job.data.value).decode() if job.data else None,
        "type_url": job.data.type_url if job.data else None,
        "policy": shown,
    }


def call(client, command: dict):
    """The SDK's own method, by its name since 1.18 or the one before; in asyncio a coroutine."""

    def method(name: str):
        return getattr(client, name, None) or getattr(client, f"{name}_alpha1")

    match command["do"]:
        case "schedule":
            return method("schedule_job")(job_of(command), overwrite=command.get("overwrite", False))
        case "get":
            return method("get_job")(command["name"])
        case "delete":
            return method("delete_job")(command["name"])
    raise ValueError(command)


def answer(result) -> dict:
    return {"done": plain(result) if isinstance(result, Job) else None}


def run_sync() -> None:
    with DaprClient() as client:
        for line in sys.stdin:
            try:
                say(answer(call(client, json.loads(line))))
            except Exception as error:
                say({"error": str(error), "type": type(error).__name__})


async def run_asyncio() -> None:
    loop = asyncio.get_running_loop()
    async with AsyncDaprClient() as client:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            try:
                say(answer(await call(client, json.loads(line))))
            except Exception as error:
                say({"error": str(error), "type": type(error).__name__})


def main() -> None:
    flavour, port, *names = sys.argv[1:]
    threading.Thread(target=serve, args=(int(port), names), daemon=True).start()
    if flavour == "asyncio":
        asyncio.run(run_asyncio())
    else:
        run_sync()


main()
