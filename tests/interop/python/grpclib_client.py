"""A client of the scheduler on grpclib (HTTP/2 by h2). See tests/interop/scheduler_client.py."""

import asyncio
import ssl
import sys

from grpclib.client import Channel, StreamStreamMethod, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from plain import ADDRESS, DELETE, FILES, GET, INITIAL, LIST, SCHEDULE, SERVICE, pb, say, tell, titled


def connect() -> Channel:
    host, _, port = ADDRESS.rpartition(":")
    if not FILES:
        return Channel(host, int(port))
    context = ssl.create_default_context(cafile=FILES[0])
    context.load_cert_chain(FILES[1], FILES[2])
    context.set_alpn_protocols(["h2"])
    return Channel(host, int(port), ssl=context)


async def watch(channel: Channel) -> None:
    method = StreamStreamMethod(channel, f"{SERVICE}/WatchJobs", pb.WatchJobsRequest, pb.WatchJobsResponse)
    while True:
        ended = "OK"
        try:
            async with method.open() as stream:
                await stream.send_message(INITIAL)
                await stream.recv_initial_metadata()
                say(watching=True)
                async for trigger in stream:
                    await stream.send_message(tell(trigger))
        except GRPCError as error:
            ended = error.status.name
        except (StreamTerminatedError, OSError):
            ended = "UNAVAILABLE"
        say(broken=titled(ended))
        await asyncio.sleep(0.1)


async def call(channel: Channel, name: str, request):
    kind, answer = type(request), getattr(pb, f"{name}Response")
    while True:
        try:
            return await UnaryUnaryMethod(channel, f"{SERVICE}/{name}", kind, answer)(request, timeout=30)
        except (OSError, StreamTerminatedError):  # grpclib does not wait for a server that is away
            await asyncio.sleep(0.1)


async def main() -> None:
    channel = connect()
    method = UnaryStreamMethod(channel, f"{SERVICE}/WatchHosts", pb.WatchHostsRequest, pb.WatchHostsResponse)
    async with method.open() as hosts:
        await hosts.send_message(pb.WatchHostsRequest(), end=True)
        say(hosts=len((await hosts.recv_message()).hosts))
        await hosts.cancel()
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch(channel))
        await call(channel, "ScheduleJob", SCHEDULE)
        try:
            await call(channel, "ScheduleJob", SCHEDULE)
        except GRPCError as error:
            say(again=titled(error.status.name))
        got, listed = await call(channel, "GetJob", GET), await call(channel, "ListJobs", LIST)
        say(got=got.job.schedule, listed=[job.name for job in listed.jobs])
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        await call(channel, "DeleteJob", DELETE)
        try:
            await call(channel, "GetJob", GET)
        except GRPCError as error:
            say(deleted=error.status is Status.NOT_FOUND)
        watching.cancel()
    channel.close()


asyncio.run(main())
