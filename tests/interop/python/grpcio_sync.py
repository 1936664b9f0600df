"""A client of the scheduler on grpcio, with threads. See tests/interop/scheduler_client.py."""

import sys
import threading
import time
from collections.abc import Iterator
from queue import Queue

import grpc
from plain import ADDRESS, DELETE, FILES, GET, INITIAL, LIST, QUICK, SCHEDULE, SERVICE, files, pb, say, tell, titled


def connect() -> grpc.Channel:
    if not FILES:
        return grpc.insecure_channel(ADDRESS, options=QUICK)
    return grpc.secure_channel(ADDRESS, grpc.ssl_channel_credentials(*files()), options=QUICK)


def watch(channel: grpc.Channel) -> None:
    rpc = channel.stream_stream(
        f"{SERVICE}/WatchJobs",
        request_serializer=pb.WatchJobsRequest.SerializeToString,
        response_deserializer=pb.WatchJobsResponse.FromString,
    )
    while True:
        outgoing: Queue = Queue()
        outgoing.put(INITIAL)

        def requests(queue: Queue = outgoing) -> Iterator[pb.WatchJobsRequest]:
            while (message := queue.get()) is not None:
                yield message

        call = rpc(requests(), wait_for_ready=True)
        try:
            call.initial_metadata()
            say(watching=True)
            for trigger in call:
                outgoing.put(tell(trigger))
        except grpc.RpcError as error:
            say(broken=titled(error.code().name))
        outgoing.put(None)
        time.sleep(0.1)


def main() -> None:
    channel = connect()

    def call(method: str, request, **options):
        rpc = channel.unary_unary(
            f"{SERVICE}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=getattr(pb, f"{method}Response").FromString,
        )
        return rpc(request, timeout=30, **options)

    hosts = channel.unary_stream(
        f"{SERVICE}/WatchHosts",
        request_serializer=pb.WatchHostsRequest.SerializeToString,
        response_deserializer=pb.WatchHostsResponse.FromString,
    )(pb.WatchHostsRequest())
    say(hosts=len(next(hosts).hosts))
    threading.Thread(target=watch, args=(channel,), daemon=True).start()
    call("ScheduleJob", SCHEDULE)
    try:
        call("ScheduleJob", SCHEDULE)
    except grpc.RpcError as error:
        say(again=titled(error.code().name))
    got, listed = call("GetJob", GET), call("ListJobs", LIST)
    say(got=got.job.schedule, listed=[job.name for job in listed.jobs])
    sys.stdin.readline()
    call("DeleteJob", DELETE, wait_for_ready=True)
    try:
        call("GetJob", GET)
    except grpc.RpcError as error:
        say(deleted=error.code() is grpc.StatusCode.NOT_FOUND)


main()
