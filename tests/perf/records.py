"""Jobs as the API would have stored them, for those who put many into etcd."""

import random
from collections.abc import Iterator

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.core import names
from scheduler.etcd.api import Put
from scheduler.rpc.jobs import record_of
from scheduler.store.keys import Keys, partition_of
from tests.support.client import job_metadata

_PARTITIONS = 128
_DAY_S = 86_400


def idle_records(count: int, payload_bytes: int, now_ns: int, rng: random.Random, *, begin: int = 0) -> Iterator[Put]:
    """One-shots of one app, due within a year from tomorrow on."""
    keys, target = Keys("/scheduler"), names.app_target("default", "idle")
    request = pb.ScheduleJobRequest(metadata=job_metadata(app_id="idle"))
    request.job.data.value = bytes(payload_bytes)
    for number in range(begin, begin + count):
        request.name = f"job-{number:08d}"
        request.job.due_time = f"{_DAY_S + rng.randrange(365 * _DAY_S)}s"
        record = record_of(request, now_ns)
        record.generation = rng.getrandbits(64)
        key = names.storage_key(target, request.name)
        yield Put(keys.job(partition_of(key, _PARTITIONS), key), record.SerializeToString())
