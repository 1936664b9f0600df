"""What the Python clients share: lines of JSON, and the requests. Messages are the generated ones; transports are each client's own."""

import base64
import json
import sys
from pathlib import Path

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb

SERVICE = "/dapr.proto.scheduler.v1.Scheduler"
ADDRESS, APP_ID, *FILES = sys.argv[1:]
METADATA = pb.JobMetadata(app_id=APP_ID, namespace="default", target=pb.JobTargetMetadata(job=pb.TargetJob()))
SCHEDULE = pb.ScheduleJobRequest(name="tick", job=pb.Job(schedule="@every 250ms"), metadata=METADATA)
SCHEDULE.job.data.value = bytes([0, 1, 254, 255])
GET = pb.GetJobRequest(name="tick", metadata=METADATA)
LIST = pb.ListJobsRequest(metadata=METADATA)
DELETE = pb.DeleteJobRequest(name="tick", metadata=METADATA)
INITIAL = pb.WatchJobsRequest(initial=pb.WatchJobsRequestInitial(app_id=APP_ID, namespace="default"))
QUICK = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 300)]


def say(**line) -> None:
    print(json.dumps(line), flush=True)


def files() -> list[bytes]:
    """Authority, key and certificate, as grpcio orders them."""
    authority, certificate, key = (Path(name).read_bytes() for name in FILES)
    return [authority, key, certificate]


def tell(trigger: pb.WatchJobsResponse) -> pb.WatchJobsRequest:
    """Say that it has come; the acknowledgement."""
    data = base64.b64encode(trigger.data.value).decode()
    say(trigger=trigger.name, index=trigger.occurrence.index, data=data)
    return pb.WatchJobsRequest(result=pb.WatchJobsRequestResult(id=trigger.id, status=pb.SUCCESS))


def titled(name: str) -> str:
    """ALREADY_EXISTS as other languages write it."""
    return "".join(part.title() for part in name.split("_"))
