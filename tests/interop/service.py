"""gRPC's test service on our server: `python -m tests.interop.service PORT [CERTIFICATE KEY]`."""

import asyncio
import ssl
import sys
from collections.abc import Callable
from typing import Any

from scheduler.http2.call import Call, Method, Sink, Streaming, Unary
from scheduler.http2.grpc import Metadata, RpcError, Status
from scheduler.http2.server import Server
from tests.interop.messages import (
    INITIAL,
    SERVICE,
    TRAILING,
    Empty,
    Payload,
    SimpleRequest,
    SimpleResponse,
    StreamingInputCallRequest,
    StreamingInputCallResponse,
    StreamingOutputCallRequest,
    StreamingOutputCallResponse,
)


def echoed(call: Call, name: str) -> Metadata:
    """What of the caller's metadata goes back."""
    return tuple(pair for pair in call.metadata if pair[0] == name)


def unary_call(data: bytes, call: Call) -> None:
    request = SimpleRequest.FromString(data)
    if request.response_status.code:
        call.fail(Status(request.response_status.code), request.response_status.message)
        return
    answer = SimpleResponse(payload=Payload(body=bytes(request.response_size)))
    if request.fill_server_id:
        answer.server_id = "the only one"
    if not echoed(call, INITIAL):
        call.reply(answer.SerializeToString())
        return
    call.start(echoed(call, INITIAL))
    call.send(answer.SerializeToString())
    call.finish(metadata=echoed(call, TRAILING))


class _Quiet:
    """What a sink of the service need not care about."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def on_closed(self, error: RpcError | None) -> None:
        pass

    def on_writable(self) -> None:
        pass


class StreamingOutput(_Quiet):
    def on_message(self, message: bytes) -> None:
        request: Any = StreamingOutputCallRequest.FromString(message)
        if request.response_status.code:
            self.call.finish(Status(request.response_status.code), request.response_status.message)
            return
        for parameters in request.response_parameters:
            payload = Payload(body=bytes(parameters.size))
            self.call.send(StreamingOutputCallResponse(payload=payload).SerializeToString())

    def on_half_close(self) -> None:
        self.call.finish(metadata=echoed(self.call, TRAILING))


class FullDuplex(StreamingOutput):
    def __init__(self, call: Call) -> None:
        super().__init__(call)
        call.start(echoed(call, INITIAL))


class HalfDuplex(_Quiet):
    """Answers only when it has all requests."""

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self._requests: list[bytes] = []

    def on_message(self, message: bytes) -> None:
        self._requests.append(message)

    def on_half_close(self) -> None:
        output = StreamingOutput(self.call)
        for request in self._requests:
            output.on_message(request)
        output.on_half_close()


class StreamingInput(_Quiet):
    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self._size = 0

    def on_message(self, message: bytes) -> None:
        self._size += len(StreamingInputCallRequest.FromString(message).payload.body)

    def on_half_close(self) -> None:
        self.call.send(StreamingInputCallResponse(aggregated_payload_size=self._size).SerializeToString())
        self.call.finish()


STREAMING: dict[str, Callable[[Call], Sink]] = {
    "StreamingOutputCall": StreamingOutput,
    "StreamingInputCall": StreamingInput,
    "FullDuplexCall": FullDuplex,
    "HalfDuplexCall": HalfDuplex,
}


def methods() -> dict[str, Method]:
    table: dict[str, Method] = {f"{SERVICE}/{name}": Streaming(sink) for name, sink in STREAMING.items()}
    table[f"{SERVICE}/EmptyCall"] = Unary(lambda _request, call: call.reply(Empty().SerializeToString()))
    table[f"{SERVICE}/UnaryCall"] = Unary(unary_call)
    return table


async def main() -> None:
    port, *files = sys.argv[1:]
    tls = None
    if files:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*files)
        tls.set_alpn_protocols(["h2"])
    await Server(methods=methods()).listen("127.0.0.1", int(port), tls=tls)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main())
