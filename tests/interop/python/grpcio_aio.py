"""A client of the scheduler on grpc.aio. See tests/interop/scheduler_client.py."""

import asyncio
import sys

import grpc
from plain import ADDRESS, DELETE, FILES, GET, INITIAL, LIST, QUICK, SCHEDULE, SERVICE, files, pb, say, tell, titled


def connect() -> grpc.aio.Channel:
    if not FILES:
        return grpc.aio.insecure_channel(ADDRESS, options=QUICK)
    return grpc.aio.secure_channel(ADDRESS, grpc.ssl_channel_credentials(*files()), options=QUICK)


async def watch(channel: grpc.aio.Channel) -> None:
    rpc = channel.stream_stream(
        f"{SERVICE}/WatchJobs",
        request_serializer=pb.WatchJobsRequest.SerializeToString,
        response_deserializer=pb.WatchJobsResponse.FromString,
    )
    while True:
        call = rpc(wait_for_ready=True)
        try:
            await call.write(INITIAL)
            await call.initial_metadata()
            say(watching=True)
            async for trigger in call:
                await call.write(tell(trigger))
            say(broken=titled((await call.code()).name))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            say(broken=titled((await call.code()).name))
        await asyncio.sleep(0.1)


async def main() -> None:
    channel = connect()

    async def call(method: str, request, **options):
        rpc = channel.unary_unary(
            f"{SERVICE}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=getattr(pb, f"{method}Response").FromString,
        )
        return await rpc(request, timeout=30, **options)

    hosts = channel.unary_stream(
        f"{SERVICE}/WatchHosts",
        request_serializer=pb.WatchHostsRequest.SerializeToString,
        response_deserializer=pb.WatchHostsResponse.FromString,
    )(pb.WatchHostsRequest())
    say(hosts=len((await hosts.read()).hosts))
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch(channel))
        await call("ScheduleJob", SCHEDULE)
        try:
            await call("ScheduleJob", SCHEDULE)
        except grpc.aio.AioRpcError as error:
            say(again=titled(error.code().name))
        got, listed = await call("GetJob", GET), await call("ListJobs", LIST)
        say(got=got.job.schedule, listed=[job.name for job in listed.jobs])
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        await call("DeleteJob", DELETE, wait_for_ready=True)
        try:
            await call("GetJob", GET)
        except grpc.aio.AioRpcError as error:
            say(deleted=error.code() is grpc.StatusCode.NOT_FOUND)
        watching.cancel()


asyncio.run(main())
