"""Takes triggers off the streams, has the app told, and answers each when the app has (sidecar-and-jobs-api.md 3.1, 3.4)."""

import asyncio

from google.protobuf.message import DecodeError

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.logs import get_logger
from scheduler.sidecar.channels import AppChannel, Verdict
from scheduler.sidecar.metrics import SidecarStatistics
from scheduler.upstream.repeats import Done, identity_of
from scheduler.upstream.stream import Session

_log = get_logger("sidecar.delivery")


class Delivery:
    """Every trigger runs by itself, in a task of `run`'s group, and without a time limit; its session's end ends it."""

    def __init__(self, app: AppChannel | None, *, concurrency_max: int, statistics: SidecarStatistics) -> None:
        """`app` None: there is no app, and every trigger fails. `concurrency_max` below 1: no limit."""
        self._app = app
        self._slots = asyncio.Semaphore(concurrency_max) if concurrency_max > 0 else None
        self._statistics = statistics
        self._tasks: asyncio.TaskGroup | None = None
        self._in_flight: dict[Session, dict[int, asyncio.Task[None]]] = {}
        self._done = Done()
        self._draining = False
        self._idle = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Triggers that the app has and has not answered, or that wait for a slot."""
        return sum(map(len, self._in_flight.values()))

    async def run(self) -> None:
        """Deliver until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                await asyncio.get_running_loop().create_future()
        finally:
            self._tasks = None
            if self._app is not None:
                await self._app.close()

    async def drain(self, timeout_s: float) -> None:
        """Take no more triggers, and wait for the answers to those that the app has; what is late goes back with its stream."""
        self._draining = True
        if not self._in_flight:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("triggers_cut_short", count=self.in_flight)

    def take(self, session: Session, message: bytes) -> None:
        """A trigger has come. While draining it is left alone: the scheduler gets it back when the stream ends."""
        try:
            trigger = pb.WatchJobsResponse.FromString(message)
        except DecodeError as error:
            _log.error("trigger_corrupt", host=session.host, error=str(error))
            return
        if self._draining or self._tasks is None:
            return
        # Apps' jobs only: there are no actors here, and no other targets.
        if self._app is None or trigger.metadata.target.WhichOneof("type") != "job":
            session.acknowledge(trigger.id, succeeded=False)
            return
        if identity_of(trigger) in self._done:
            # Its answer was lost with a stream, or with the scheduler before that had committed it.
            session.acknowledge(trigger.id, succeeded=True)
            return
        task = self._tasks.create_task(self._deliver(self._app, session, trigger), name="trigger")
        self._in_flight.setdefault(session, {})[trigger.id] = task

    def lost(self, session: Session) -> None:
        """The stream has ended and the scheduler takes back what it had in flight: calls to the app that run for it are cut."""
        for task in self._in_flight.pop(session, {}).values():
            task.cancel()
        self._note_idle()

    def _note_idle(self) -> None:
        if self._draining and not self._in_flight:
            self._idle.set()

    async def _deliver(self, app: AppChannel, session: Session, trigger: pb.WatchJobsResponse) -> None:
        if self._slots is None:
            verdict = await self._tell(app, trigger)
        else:
            async with self._slots:
                verdict = await self._tell(app, trigger)
        if verdict is Verdict.TAKEN:
            self._done.add(identity_of(trigger))
        session.acknowledge(trigger.id, succeeded=verdict.acknowledged)
        running = self._in_flight.get(session)
        if running is not None:
            running.pop(trigger.id, None)
            if not running:
                del self._in_flight[session]
                self._note_idle()

    async def _tell(self, app: AppChannel, trigger: pb.WatchJobsResponse) -> Verdict:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            verdict = await app.deliver(trigger)
        except Exception as error:
            _log.exception("trigger_failed", job=trigger.name, error=repr(error))
            verdict = Verdict.FAILED
        if verdict is not Verdict.UNREACHED:
            self._statistics.answered(loop.time() - began_s, succeeded=verdict is Verdict.TAKEN)
        return verdict
