"""A job as a document: what `job get|list|export` print and `job import` reads. Going there and back changes nothing. Pure.

The fields are the HTTP API's, with whose job it is before them. Data is shown in the most readable of three ways that gives the same data again:
`value` (JSON, for a google.protobuf.Value; the order of its keys means nothing), `text` (UTF-8) or `base64`; the latter two byte by byte.
"""

import base64
import binascii
import difflib
import json
from typing import Any

from google.protobuf import json_format
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Value

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.core.trace_context import PROPAGATIONS

_VALUE_TYPE = "type.googleapis.com/google.protobuf.Value"
_TIMES = {"schedule": "schedule", "dueTime": "due_time", "ttl": "ttl"}
_FIELDS = (
    "namespace", "appId", "actorType", "actorId", "name", "schedule", "dueTime", "repeats", "ttl", "concurrencyKey", "failurePolicy", "tracing", "data",
)  # fmt: skip


class BadDocument(Exception):
    """A document that is no job: which field, what was found, what is allowed."""

    def __init__(self, field: str, message: str) -> None:
        """`field` is as the document spells it."""
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field


def document_of(named: pb.NamedJob) -> dict[str, Any]:
    """The document of a job, with the fields that it has."""
    metadata, job = named.metadata, named.job
    document: dict[str, Any] = {"namespace": metadata.namespace, "appId": metadata.app_id}
    if metadata.target.WhichOneof("type") == "actor":
        document |= {"actorType": metadata.target.actor.type, "actorId": metadata.target.actor.id}
    document["name"] = named.name
    document |= {field: getattr(job, name) for field, name in _TIMES.items() if job.HasField(name)}
    if job.HasField("repeats"):
        document["repeats"] = job.repeats
    if metadata.HasField("concurrency_key"):
        document["concurrencyKey"] = metadata.concurrency_key
    if job.HasField("failure_policy"):
        document["failurePolicy"] = json_format.MessageToDict(job.failure_policy)
    if job.tracing:
        document["tracing"] = job.tracing
    if job.HasField("data"):
        document["data"] = _shown(job.data)
    return {field: document[field] for field in _FIELDS if field in document}


def _shown(data: AnyMessage) -> dict[str, Any]:
    kind = {"@type": data.type_url}
    if data.type_url == _VALUE_TYPE:
        try:
            message = Value.FromString(data.value)
            value = json_format.MessageToDict(message)
            # JSON cannot say everything: NaN, fields of a later version.
            if pack_value(value).value == message.SerializeToString(deterministic=True):
                return {**kind, "value": value}
        except (DecodeError, json_format.Error, ValueError, RecursionError):
            pass
    try:
        text = data.value.decode()
        if text.isprintable():
            return {**kind, "text": text}
    except UnicodeDecodeError:
        pass
    return {**kind, "base64": base64.b64encode(data.value).decode()}


def pack_value(value: Any) -> AnyMessage:
    """JSON as a job's data, as the HTTP API packs it; equal values give equal bytes. Raises json_format.ParseError."""
    message = json_format.ParseDict(value, Value())
    return AnyMessage(type_url=_VALUE_TYPE, value=message.SerializeToString(deterministic=True))


def request_of(
    document: Any, *, namespace: str | None = None, app_id: str | None = None, overwrite: bool = False
) -> pb.ScheduleJobRequest:
    """The request that schedules a document's job; `namespace` and `app_id` go before the document's. Raises BadDocument."""
    if not isinstance(document, dict):
        raise BadDocument("", f"a job is an object with fields such as name and schedule, found {_kind(document)}")
    for field in document:
        if field not in _FIELDS:
            near = difflib.get_close_matches(str(field), _FIELDS, 1)
            hint = f"did you mean {near[0]}?" if near else f"allowed are {', '.join(_FIELDS)}"
            raise BadDocument(str(field), f"there is no such field; {hint}")
    name = _text(document, "name")
    if not name:
        raise BadDocument("name", "is missing")
    job = pb.Job()
    for field, attribute in _TIMES.items():
        if field in document:
            setattr(job, attribute, _text(document, field))
    if "repeats" in document:
        repeats = document["repeats"]
        if not isinstance(repeats, int) or isinstance(repeats, bool) or not 0 <= repeats < 1 << 32:
            raise BadDocument("repeats", f"is {repeats!r}, allowed are whole numbers up to 4294967295")
        job.repeats = repeats
    if "failurePolicy" in document:
        try:
            json_format.ParseDict(document["failurePolicy"], job.failure_policy)
        except (json_format.ParseError, AttributeError, TypeError) as error:
            raise BadDocument("failurePolicy", f'{error}; {{"drop": {{}}}} and {{"constant": {{"interval": "1s"}}}} are allowed') from error  # fmt: skip
    if "tracing" in document:
        job.tracing = _text(document, "tracing")
        if job.tracing not in PROPAGATIONS:
            raise BadDocument("tracing", f"is {_kind(job.tracing)}, allowed are link, parent and none")
    if "data" in document:
        job.data.CopyFrom(_data(document["data"]))
    return pb.ScheduleJobRequest(
        name=name, job=job, metadata=_metadata(document, namespace, app_id), overwrite=overwrite
    )


def _metadata(document: dict[str, Any], namespace: str | None, app_id: str | None) -> pb.JobMetadata:
    if namespace is None:
        namespace = _text(document, "namespace", "default")
    if app_id is None:
        app_id = _text(document, "appId")
        if not app_id and "actorType" not in document:
            raise BadDocument("appId", "is missing, and no --app-id is given")
    target = pb.JobTargetMetadata(job=pb.TargetJob())
    if "actorType" in document or "actorId" in document:
        target = pb.JobTargetMetadata(
            actor=pb.TargetActorReminder(type=_text(document, "actorType"), id=_text(document, "actorId"))
        )
    metadata = pb.JobMetadata(namespace=namespace, app_id=app_id, target=target)
    if "concurrencyKey" in document:
        metadata.concurrency_key = _text(document, "concurrencyKey")
    return metadata


def _data(shown: Any) -> AnyMessage:
    if not isinstance(shown, dict) or not isinstance(kind := shown.get("@type"), str):
        raise BadDocument("data", 'is no object with "@type" and one of "value", "text" and "base64"')
    match {key: value for key, value in shown.items() if key != "@type"}:
        case {"value": value, **rest} if not rest and kind == _VALUE_TYPE:
            try:
                return pack_value(value)
            except (json_format.ParseError, ValueError, RecursionError) as error:
                raise BadDocument("data.value", str(error)) from error
        case {"text": str(), **rest} if not rest:
            return AnyMessage(type_url=kind, value=_text(shown, "text").encode())
        case {"base64": str(text), **rest} if not rest:
            try:
                return AnyMessage(type_url=kind, value=base64.b64decode(text, validate=True))
            except (binascii.Error, ValueError) as error:
                raise BadDocument("data.base64", str(error)) from error
    raise BadDocument(
        "data", f'beside "@type" there is one of "text", "base64" and, for the type {_VALUE_TYPE}, "value"'
    )


def _text(document: dict[str, Any], field: str, default: str = "") -> str:
    value = document.get(field, default)
    if not isinstance(value, str):
        raise BadDocument(field, f"is {_kind(value)}, a text is allowed")
    if any("\ud800" <= one <= "\udfff" for one in value):
        raise BadDocument(field, f"is {_kind(value)}, which is half a character")
    return value


def _kind(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else text[:37] + "..."
