"""The standard gRPC services that every server of ours offers: health and reflection."""

from collections.abc import Callable, Sequence

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import DecodeError

from scheduler._pb.grpc_services import health_pb2, reflection_pb2
from scheduler.http2.call import Call, Method, Streaming, Unary
from scheduler.http2.grpc import RpcError, Status


def health_methods(serving: Callable[[str], bool | None]) -> dict[str, Method]:
    """grpc.health.v1; `serving(service)` says how a service stands, None for one that is not known ("" is the whole server)."""

    def check(request: bytes, call: Call) -> None:
        try:
            service = health_pb2.HealthCheckRequest.FromString(request).service
        except DecodeError as error:
            raise RpcError(Status.INVALID_ARGUMENT, str(error)) from error
        state = serving(service)
        if state is None:
            raise RpcError(Status.NOT_FOUND, f"unknown service {service!r}")
        status = health_pb2.HealthCheckResponse.SERVING if state else health_pb2.HealthCheckResponse.NOT_SERVING
        call.reply(health_pb2.HealthCheckResponse(status=status).SerializeToString())

    return {"/grpc.health.v1.Health/Check": Unary(check)}


def reflection_methods(files: Sequence[FileDescriptor], services: Sequence[str]) -> dict[str, Method]:
    """grpc.reflection v1 and v1alpha over these files and whatever they import."""
    known: dict[str, FileDescriptor] = {}

    def learn(file: FileDescriptor) -> None:
        if file.name not in known:
            known[file.name] = file
            for dependency in file.dependencies:
                learn(dependency)

    for file in files:
        learn(file)

    def handler(call: Call) -> "_Reflection":
        return _Reflection(call, known, services)

    return {
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo": Streaming(handler)
        for version in ("v1", "v1alpha")
    }


class _Reflection:
    """One reflection stream."""

    def __init__(self, call: Call, files: dict[str, FileDescriptor], services: Sequence[str]) -> None:
        self._call = call
        self._files = files
        self._services = services

    def on_message(self, message: bytes) -> None:
        request = reflection_pb2.ServerReflectionRequest.FromString(message)
        response = reflection_pb2.ServerReflectionResponse(valid_host=request.host, original_request=request)
        match request.WhichOneof("message_request"):
            case "list_services":
                for service in self._services:
                    response.list_services_response.service.add(name=service)
            case "file_by_filename":
                self._answer(response, self._files.get(request.file_by_filename), request.file_by_filename)
            case "file_containing_symbol":
                symbol = request.file_containing_symbol
                self._answer(response, self._containing(symbol), symbol)
            case _:
                response.error_response.error_code = int(Status.UNIMPLEMENTED)
                response.error_response.error_message = "not supported"
        self._call.send(response.SerializeToString())

    def _containing(self, symbol: str) -> FileDescriptor | None:
        for file in self._files.values():
            names = [*file.message_types_by_name.values(), *file.enum_types_by_name.values()]
            if any(symbol == one.full_name or symbol.startswith(one.full_name + ".") for one in names):
                return file
            for service in file.services_by_name.values():
                if symbol == service.full_name or symbol.startswith(service.full_name + "."):
                    return file
        return None

    def _answer(
        self, response: reflection_pb2.ServerReflectionResponse, file: FileDescriptor | None, wanted: str
    ) -> None:
        if file is None:
            response.error_response.error_code = int(Status.NOT_FOUND)
            response.error_response.error_message = f"not found: {wanted}"
        else:
            response.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)

    def on_half_close(self) -> None:
        self._call.finish()

    def on_writable(self) -> None:
        pass

    def on_closed(self, error: RpcError | None) -> None:
        pass
