"""Jobs as documents: there and back without a change, and what is wrong is said with the field."""

import json
import struct

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.struct_pb2 import Value
from hypothesis import given
from hypothesis import strategies as st

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.cli.job_document import BadDocument, document_of, pack_value, request_of
from scheduler.core.trace_context import PROPAGATIONS

VALUE = "type.googleapis.com/google.protobuf.Value"


def job(**fields) -> pb.NamedJob:
    metadata = pb.JobMetadata(namespace="default", app_id="backup", target=pb.JobTargetMetadata(job=pb.TargetJob()))
    return pb.NamedJob(name="nightly", metadata=metadata, job=pb.Job(**fields))


def there_and_back(named: pb.NamedJob) -> pb.NamedJob:
    document = json.loads(json.dumps(document_of(named)))
    request = request_of(document)
    return pb.NamedJob(name=request.name, metadata=request.metadata, job=request.job)


texts = st.none() | st.text(max_size=20)
policies = st.sampled_from(
    [{}, {"drop": {}}, {"constant": {"max_retries": 0}}, {"constant": {"interval": {"nanos": 5}}}]
)
kinds = st.sampled_from(["", VALUE, "type.googleapis.com/google.protobuf.StringValue", "example/unknown"])
data = st.none() | st.builds(AnyMessage, type_url=kinds, value=st.binary(max_size=30))
fields = st.fixed_dictionaries(
    {}, optional={"tracing": st.sampled_from(["", *PROPAGATIONS]), "schedule": texts, "due_time": texts, "ttl": texts,
                  "repeats": st.integers(0, 2**32 - 1), "data": data}
)  # fmt: skip


@given(fields, policies, st.none() | st.tuples(st.text(max_size=9), st.text(max_size=9)), texts)
def test_nothing_is_lost_on_the_way(given_fields, policy, actor, key) -> None:
    named = job(**given_fields)
    if policy:
        named.job.failure_policy.CopyFrom(type(named.job.failure_policy)(**policy))
    if actor is not None:
        named.metadata.target.actor.type, named.metadata.target.actor.id = actor
    if key is not None:
        named.metadata.concurrency_key = key
    assert there_and_back(named) == named


documents = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(documents)
def test_json_data_comes_back(value) -> None:
    packed = job(data=pack_value(value))
    back = there_and_back(packed).job.data
    assert back.type_url == VALUE and Value.FromString(back.value) == Value.FromString(packed.job.data.value)


def test_data_is_shown_as_readably_as_is_exact() -> None:
    assert document_of(job(data=pack_value({"db": "x", "n": 5})))["data"] == {
        "@type": VALUE,
        "value": {"db": "x", "n": 5},
    }
    assert document_of(job(data=AnyMessage(value=b"plain")))["data"] == {"@type": "", "text": "plain"}
    assert document_of(job(data=AnyMessage(value=b"\0")))["data"] == {"@type": "", "base64": "AA=="}
    no_json = AnyMessage(type_url=VALUE, value=b"\x11" + struct.pack("<d", float("nan")))
    assert "base64" in document_of(job(data=no_json))["data"]


def test_whose_job_it_is_may_be_left_out() -> None:
    request = request_of({"name": "a", "dueTime": "1s"}, app_id="backup", overwrite=True)
    assert (request.metadata.namespace, request.metadata.app_id, request.overwrite) == ("default", "backup", True)


@pytest.mark.parametrize(
    ("document", "field", "text"),
    [
        ([], "", "found []"),
        ({}, "name", "missing"),
        ({"name": 5}, "name", "is 5"),
        ({"name": "a", "shedule": "@daily"}, "shedule", "did you mean schedule?"),
        ({"name": "a", "due_time": 5}, "due_time", "did you mean dueTime?"),
        ({"name": "a", "zzzzz": 5}, "zzzzz", "allowed are namespace"),
        ({"name": "a", "ttl": ["1s"]}, "ttl", 'is ["1s"]'),
        ({"name": "\ud800"}, "name", "half a character"),
        ({"name": "a"}, "appId", "no --app-id is given"),
        ({"name": "a", "repeats": -1}, "repeats", "is -1"),
        ({"name": "a", "repeats": True}, "repeats", "is True"),
        ({"name": "a", "failurePolicy": "drop"}, "failurePolicy", "drop"),
        ({"name": "a", "failurePolicy": {"never": {}}}, "failurePolicy", "never"),
        ({"name": "a", "tracing": "both"}, "tracing", "allowed are link, parent and none"),
        ({"name": "a", "data": "x"}, "data", "@type"),
        ({"name": "a", "data": {"@type": "x", "value": 1}}, "data", "Value"),
        ({"name": "a", "data": {"@type": "x", "base64": "!"}}, "data.base64", ""),
        ({"name": "a", "data": {"@type": "x", "text": "a", "base64": ""}}, "data", "one of"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_the_field(document, field: str, text: str) -> None:
    with pytest.raises(BadDocument) as caught:
        request_of(document)
    assert caught.value.field == field and text in str(caught.value)
