"""Triggers that have come and are not answered: each is handled once here, even when a scheduler that lost us sends it again."""

import asyncio
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.message import DecodeError

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.client.jobs import unpack
from scheduler.logs import get_logger
from scheduler.upstream.repeats import Done, Identity, identity_of
from scheduler.upstream.stream import Session

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_log = get_logger("client")


class Trigger:
    """One occurrence of a job, to be answered once."""

    def __init__(self, box: "Inbox", session: Session, message: pb.WatchJobsResponse) -> None:
        """Made by the inbox."""
        self._box = box
        self._session = session
        self._id = message.id
        self.answered = False
        self.name = message.name
        self.data: Any = unpack(message.data) if message.HasField("data") else None
        occurrence = message.occurrence if message.HasField("occurrence") else None
        # None from a scheduler that does not say it.
        self.scheduled: datetime | None = None
        self.attempt: int | None = None
        # W3C trace context as headers (traceparent, tracestate), for a tracer's propagator; empty where there is none.
        self.trace: dict[str, str] = {}
        if message.trace_parent:
            self.trace = {"traceparent": message.trace_parent, "tracestate": message.trace_state}
        # The same for every delivery of this occurrence: what an app compares to discard a repeat.
        self.identity: Identity | None = identity_of(message)
        if occurrence is not None:
            micros = occurrence.scheduled_nanos // 1000
            self.scheduled = _EPOCH + timedelta(seconds=occurrence.scheduled_seconds, microseconds=micros)
            self.attempt = occurrence.attempt

    def succeed(self) -> None:
        """The job has been done; the next occurrence may come."""
        self.answer(succeeded=True)

    def fail(self) -> None:
        """It has not: it comes again as the job's failure policy says."""
        self.answer(succeeded=False)

    def answer(self, *, succeeded: bool) -> None:
        """Either of the two. The first answer counts."""
        if not self.answered:
            self.answered = True
            self._box.answered(self, succeeded=succeeded)
            self._session.acknowledge(self._id, succeeded=succeeded)

    def come_again(self, session: Session, trigger_id: int) -> None:
        """The scheduler has sent it again: the answer goes there."""
        self._session, self._id = session, trigger_id

    def came_by(self, session: Session) -> bool:
        """Whether this stream is the one that would take the answer."""
        return self._session is session

    def __repr__(self) -> str:
        return f"<Trigger {self.name!r} scheduled {self.scheduled} attempt {self.attempt}>"


class Inbox:
    """What has come; the streams' receiver."""

    def __init__(self) -> None:
        """Empty."""
        self._waiting: deque[Trigger] = deque()
        self._unanswered: dict[Identity, Trigger] = {}
        self._done = Done()
        self._arrived = asyncio.Event()

    async def get(self) -> Trigger:
        """The next, in the order in which they came."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()

    def answered(self, trigger: Trigger, *, succeeded: bool) -> None:
        """One that has failed may come again."""
        if trigger.identity is not None:
            self._unanswered.pop(trigger.identity, None)
            if succeeded:
                self._done.add(trigger.identity)

    # The streams' receiver

    def take(self, session: Session, message: bytes) -> None:
        """See Receiver."""
        try:
            response = pb.WatchJobsResponse.FromString(message)
            trigger = Trigger(self, session, response)
        except (DecodeError, OverflowError) as error:
            _log.error("trigger_corrupt", host=session.host, error=str(error))
            return
        if response.metadata.target.WhichOneof("type") != "job":
            trigger.fail()
            return
        if trigger.identity is not None:
            if trigger.identity in self._done:
                session.acknowledge(response.id, succeeded=True)
                return
            running = self._unanswered.get(trigger.identity)
            if running is not None:
                running.come_again(session, response.id)
                return
            self._unanswered[trigger.identity] = trigger
        self._waiting.append(trigger)
        self._arrived.set()

    def lost(self, session: Session) -> None:
        """What waits comes again; what is being handled goes on, and the answer goes to whoever sends it again meanwhile."""
        gone = [trigger for trigger in self._waiting if trigger.came_by(session)]
        if gone:
            self._waiting = deque(trigger for trigger in self._waiting if not trigger.came_by(session))
            for trigger in gone:
                self.answered(trigger, succeeded=False)
