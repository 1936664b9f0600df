"""The messages of gRPC's interoperability tests (package grpc.testing), built from a table: name, number, type."""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_NAMES = {
    "Empty": "",
    "Payload": "type 1 int32, body 2 bytes",
    "EchoStatus": "code 1 int32, message 2 string",
    "SimpleRequest": "response_type 1 int32, response_size 2 int32, payload 3 Payload, response_status 7 EchoStatus, "
    "fill_server_id 9 bool",
    "SimpleResponse": "payload 1 Payload, server_id 4 string",
    "StreamingInputCallRequest": "payload 1 Payload",
    "StreamingInputCallResponse": "aggregated_payload_size 1 int32",
    "ResponseParameters": "size 1 int32, interval_us 2 int32",
    "StreamingOutputCallRequest": "response_type 1 int32, response_parameters 2 ResponseParameters*, payload 3 Payload, "
    "response_status 7 EchoStatus",
    "StreamingOutputCallResponse": "payload 1 Payload",
}
_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "int32": _Field.TYPE_INT32,
    "bool": _Field.TYPE_BOOL,
    "bytes": _Field.TYPE_BYTES,
    "string": _Field.TYPE_STRING,
}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="interop.proto", package="grpc.testing", syntax="proto3")
    for message, fields in _NAMES.items():
        made = file.message_type.add(name=message)
        for field in filter(None, fields.split(", ")):
            name, number, kind = field.split()
            label = _Field.LABEL_REPEATED if kind.endswith("*") else _Field.LABEL_OPTIONAL
            kind = kind.removesuffix("*")
            one = made.field.add(name=name, number=int(number), label=label)
            if kind in _SCALARS:
                one.type = _SCALARS[kind]
            else:
                one.type, one.type_name = _Field.TYPE_MESSAGE, f".grpc.testing.{kind}"
    return file


_pool = descriptor_pool.DescriptorPool()
_pool.Add(_file())
_classes = {
    name: message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"grpc.testing.{name}")) for name in _NAMES
}

Empty = _classes["Empty"]
EchoStatus = _classes["EchoStatus"]
Payload = _classes["Payload"]
SimpleRequest = _classes["SimpleRequest"]
SimpleResponse = _classes["SimpleResponse"]
StreamingInputCallRequest = _classes["StreamingInputCallRequest"]
StreamingInputCallResponse = _classes["StreamingInputCallResponse"]
StreamingOutputCallRequest = _classes["StreamingOutputCallRequest"]
StreamingOutputCallResponse = _classes["StreamingOutputCallResponse"]

SERVICE = "/grpc.testing.TestService"
INITIAL, TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"
