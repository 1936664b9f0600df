"""What an app is told of a trigger: every row of the specification's tables (sidecar-and-jobs-api.md 3.2, 3.3)."""

import json

import pytest
from google.protobuf import wrappers_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value
from hypothesis import given
from hypothesis import strategies as st

from scheduler._pb.dapr.proto.common.v1.common_pb2 import HTTPExtension
from scheduler._pb.dapr.proto.runtime.v1.appcallback_pb2 import JobEventRequest
from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.sidecar.payload import body_of, event_of, identity_of, path_of, trim

VALUE_URL = "type.googleapis.com/google.protobuf.Value"


def trigger(data: AnyMessage | None = None, name: str = "job") -> pb.WatchJobsResponse:
    return pb.WatchJobsResponse(name=name, id=1, data=data)


def packed(message) -> AnyMessage:
    data = AnyMessage()
    data.Pack(message)
    return data


@pytest.mark.parametrize(
    "given_value", ["str", "", 123, 1.5, -2, 1e30, 0.1, True, False, None, {}, [], {"a": {"b": [1, "ü✓", None]}}]
)
def test_a_value_becomes_its_json(given_value) -> None:
    body = body_of(trigger(packed(ParseDict(given_value, Value()))))
    assert json.loads(body) == given_value
    if isinstance(given_value, int):
        assert body == json.dumps(given_value).encode(), "a whole number has no decimal point"


@pytest.mark.parametrize(
    ("data", "body"),
    [
        pytest.param(None, b"", id="no data"),
        pytest.param(packed(Value()), b"", id="a value of no kind"),
        pytest.param(AnyMessage(), b"", id="an empty Any"),
        pytest.param(packed(wrappers_pb2.StringValue(value="hello world")), b"hello world", id="StringValue"),
        pytest.param(packed(wrappers_pb2.BytesValue(value=b"hello world")), b"hello world", id="BytesValue"),
        pytest.param(packed(wrappers_pb2.Int64Value(value=123)), b"\x08\x7b", id="Int64Value"),
        pytest.param(
            AnyMessage(type_url="type.googleapis.com/x.Ping", value=b"\x0a\x04pong\x10\x7b"), b"\x04pong\x10\x7b", id="a message"
        ),
        pytest.param(AnyMessage(value=b'{"expression": "val"}'), b'{"expression": "val"}', id="raw bytes"),
        pytest.param(
            AnyMessage(type_url="dapr.io/schedule/jobpayload", value=b"\xff\x00\xfe"), b"\xff\x00\xfe", id="any bytes"
        ),
        pytest.param(AnyMessage(type_url=VALUE_URL.removeprefix("type."), value=b" x "), b"x", id="nearly a Value"),
        pytest.param(AnyMessage(value=b" \t\r\n\v\f x \t\n"), b"x", id="ASCII blanks"),
        pytest.param(AnyMessage(value="\u00a0\u2003\u3000 x\u0085\u2028 ".encode()), b"x", id="Unicode blanks"),
        pytest.param(AnyMessage(value=b"\xe2\x80"), b"\xe2\x80", id="half of a blank"),
    ],
)  # fmt: skip
def test_everything_else_goes_as_its_bytes_without_blanks_around_them(data: AnyMessage | None, body: bytes) -> None:
    assert body_of(trigger(data)) == body


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_json_cannot_tell_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        body_of(trigger(packed(Value(number_value=number))))
    with pytest.raises(ValueError, match=r"google\.protobuf\.Value"):
        body_of(trigger(AnyMessage(type_url=VALUE_URL, value=b"\xff")))


@given(st.text(alphabet="a \t\n\u00a0\u1680\u2000\u200a\u200b\u2028\u202f\u205f\u3000\ufeff\x85\x1c", max_size=12))
def test_blanks_are_what_unicode_says(text: str) -> None:
    """Python's str.strip also takes the separators 1C to 1F, which Go's does not."""
    blanks = "\t\n\v\f\r \x85\u00a0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
    assert trim(text.encode()) == text.strip(blanks).encode()


@given(st.binary(max_size=40))
def test_trimming_takes_any_bytes(data: bytes) -> None:
    assert trim(data) in data


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("test", "/job/test"),
        ("/test", "/job/test"),
        ("a b", "/job/a%20b"),
        ("my||job@name", "/job/my%7C%7Cjob@name"),
        ("%41", "/job/%41"),
        ("ü", "/job/%C3%BC"),
        ('"<>{}`^', "/job/%22%3C%3E%7B%7D%60%5E"),
    ],
)
def test_the_path_holds_the_name_encoded_where_it_must_be(name: str, path: str) -> None:
    assert path_of(name) == path


@pytest.mark.parametrize("name", ["%", "50%", "%4", "%zz"])
def test_a_name_that_fits_no_url_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="%"):
        path_of(name)


@pytest.mark.parametrize("data", [None, AnyMessage(), packed(Value(string_value="x")), AnyMessage(value=b"raw")])
def test_a_grpc_app_gets_the_data_untouched(data: AnyMessage | None) -> None:
    request = JobEventRequest.FromString(event_of(trigger(data, "a b")))
    assert (request.name, request.method, request.http_extension.verb) == ("a b", "job/a b", HTTPExtension.POST)
    assert request.HasField("data") == (data is not None)
    assert request.data == (data or AnyMessage())
    assert request.content_type == (data.type_url if data else "")


def test_the_occurrence_is_told_where_the_scheduler_tells_it() -> None:
    assert identity_of(trigger()) == {}
    known = trigger()
    known.occurrence.replica, known.occurrence.attempt, known.occurrence.index = "r1", 2, 7
    known.occurrence.scheduled_seconds, known.occurrence.scheduled_nanos = 1_790_000_000, 5
    known.occurrence.generation, known.occurrence.epoch = 255, 3
    assert identity_of(known) == {
        "scheduler-replica": "r1",
        "scheduler-scheduled-time": "2026-09-21T14:13:20.000000005Z",
        "scheduler-attempt": "2",
        "scheduler-generation": "00000000000000ff",
        "scheduler-epoch": "3",
        "scheduler-index": "7",
    }
