"""The body of POST /v1.0/jobs/<name> (sidecar-and-jobs-api.md 1.2, 1.3): proto3-JSON with both spellings, and any JSON as data. Pure."""

import json
from typing import Any

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value

from scheduler._pb.dapr.proto.runtime.v1 import jobs_pb2

_FIELDS = {
    "schedule": "schedule",
    "dueTime": "dueTime",
    "due_time": "dueTime",
    "repeats": "repeats",
    "ttl": "ttl",
    "failurePolicy": "failurePolicy",
    "failure_policy": "failurePolicy",
    "name": "name",
}


class Malformed(Exception):
    """A body that is no job: what was found, and what is allowed."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(names) != len(set(names)):
        raise Malformed("a field is given twice")
    return dict(pairs)


def parse_job(body: bytes) -> tuple[jobs_pb2.Job, bool]:
    """A job and its overwrite flag. Raises Malformed."""
    if not body:
        return jobs_pb2.Job(), False
    try:
        fields = json.loads(body, object_pairs_hook=_pairs)
    except (ValueError, RecursionError) as error:
        raise Malformed(str(error)) from error
    if not isinstance(fields, dict):
        raise Malformed(f"a job is a JSON object, found {type(fields).__name__}")
    overwrite = fields.get("overwrite")
    if overwrite is not None and not isinstance(overwrite, bool):
        raise Malformed(f"overwrite is {overwrite!r}, allowed are true and false")
    known: dict[str, Any] = {}
    for name, value in fields.items():
        field = _FIELDS.get(name)
        if field is not None:
            if field in known:
                raise Malformed(f"{field} is given twice")
            known[field] = value
    _check_policy(known.get("failurePolicy"))
    job = jobs_pb2.Job()
    try:
        json_format.ParseDict(known, job, ignore_unknown_fields=True)
        if "data" in fields:
            job.data.Pack(json_format.ParseDict(fields["data"], Value()))
    except (json_format.ParseError, RecursionError, ValueError) as error:
        raise Malformed(str(error)) from error
    return job, bool(overwrite)


def _check_policy(policy: Any) -> None:
    """A failure policy is an object, and so are its members; the JSON parser would let a text pass."""
    if policy is None:
        return
    if not isinstance(policy, dict):
        raise Malformed(f"failurePolicy is an object, found {policy!r}")
    for name in ("drop", "constant"):
        if not isinstance(policy.get(name, {}), dict | None):
            raise Malformed(f"failurePolicy.{name} is an object, found {policy[name]!r}")
