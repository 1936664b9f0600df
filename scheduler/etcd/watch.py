"""Watches: all of a client's watches on one stream, which is made again when it is lost.

A watch resumes behind the last event it has delivered, never behind a progress notice (servers before 3.4.31 and 3.5.13 may
send one ahead of undelivered events). What cannot be resumed without a gap is told to its owner, who reads again.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Protocol

from scheduler._pb.etcd_api.v1 import etcd_pb2 as pb
from scheduler.etcd.api import Event, EventsCallback, KeyValue, LostCallback
from scheduler.etcd.errors import EtcdError
from scheduler.etcd.wire import key_value
from scheduler.http2.client import Channel
from scheduler.http2.client_call import ClientCall
from scheduler.http2.grpc import Metadata, RpcError

_DELETE = pb.Event.DELETE
_RECONNECT_S = (0.05, 1.0)
# How often etcd is asked how far the watches are: what tells a quiet stream from one that is stuck.
_ASK_S = 5.0
_ASK = pb.WatchRequest(progress_request=pb.WatchProgressRequest()).SerializeToString()
_WATCH_PATH = "/etcdserverpb.Watch/Watch"


def _event(event: pb.Event) -> Event:
    kv = event.kv
    if event.type == _DELETE:
        return Event(is_delete=True, kv=KeyValue(kv.key, b"", 0, kv.mod_revision, 0, 0))
    return Event(is_delete=False, kv=key_value(kv))


class _ChannelChoice(Protocol):
    def __call__(self, *, failed: bool) -> Channel: ...


class _Watch:
    """One watch; `number` is its id on the stream."""

    __slots__ = ("fragments", "key", "next_revision", "number", "on_events", "on_lost", "range_end", "stream")

    def __init__(
        self,
        stream: "WatchStream",
        number: int,
        key: bytes,
        range_end: bytes,
        start_revision: int,
        on_events: EventsCallback,
        on_lost: LostCallback,
    ) -> None:
        self.stream = stream
        self.number = number
        self.key = key
        self.range_end = range_end
        self.next_revision = start_revision
        self.on_events = on_events
        self.on_lost = on_lost
        self.fragments: list[Event] = []

    def cancel(self) -> None:
        """No callback after this returns."""
        self.stream.remove(self)

    def create_request(self) -> bytes:
        """The request that (re)creates it on a stream."""
        create = pb.WatchCreateRequest(
            key=self.key,
            range_end=self.range_end,
            start_revision=self.next_revision,
            progress_notify=True,
            watch_id=self.number,
            fragment=True,
        )
        return pb.WatchRequest(create_request=create).SerializeToString()


class WatchStream:
    """The one stream; it is open exactly while there are watches."""

    def __init__(
        self, *, channel: _ChannelChoice, metadata: Callable[[], Awaitable[Metadata]], rng: random.Random
    ) -> None:
        """`channel(failed=...)` chooses the endpoint; `metadata()` gives credentials."""
        self._channel = channel
        self._metadata = metadata
        self._rng = rng
        self._watches: dict[int, _Watch] = {}
        self._next_number = 1
        self._call: ClientCall | None = None
        self._generation = 0
        self._opening: asyncio.Task[None] | None = None
        self._failures = 0
        self._closed = False
        self._cluster_id = 0
        self.reconnects: Counter[str] = Counter()
        # When etcd last said something, or the watches began.
        self._heard_s = 0.0
        self._asking: asyncio.TimerHandle | None = None

    @property
    def lag_s(self) -> float:
        """See `Client.watch_lag_s`."""
        return asyncio.get_running_loop().time() - self._heard_s if self._watches else 0.0

    def add(
        self, key: bytes, range_end: bytes, start_revision: int, on_events: EventsCallback, on_lost: LostCallback
    ) -> _Watch:
        """A new watch."""
        loop = asyncio.get_running_loop()
        if not self._watches:
            self._heard_s = loop.time()
        if self._asking is None:
            self._asking = loop.call_later(_ASK_S, self._ask)
        number, self._next_number = self._next_number, self._next_number + 1
        watch = self._watches[number] = _Watch(self, number, key, range_end, start_revision, on_events, on_lost)
        if self._call is not None:
            self._call.send(watch.create_request())
        else:
            self._open()
        return watch

    def remove(self, watch: _Watch) -> None:
        """End a watch."""
        if self._watches.pop(watch.number, None) is not None and self._call is not None:
            cancel = pb.WatchCancelRequest(watch_id=watch.number)
            self._call.send(pb.WatchRequest(cancel_request=cancel).SerializeToString())

    def close(self) -> None:
        """End all watches without a word to their owners."""
        self._closed = True
        self._watches.clear()
        if self._opening is not None:
            self._opening.cancel()
        if self._asking is not None:
            self._asking.cancel()
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _open(self) -> None:
        if self._opening is None and not self._closed:
            self._opening = asyncio.get_running_loop().create_task(self._open_soon(), name="etcd watch stream")

    async def _open_soon(self) -> None:
        try:
            while self._watches and self._call is None:
                if self._failures:
                    pause_s = min(_RECONNECT_S[1], _RECONNECT_S[0] * 2 ** min(10, self._failures - 1))
                    await asyncio.sleep(pause_s * (0.5 + self._rng.random() / 2))
                try:
                    metadata = (("hasleader", "true"), *await self._metadata())
                except EtcdError:
                    self._failures += 1
                    continue
                channel = self._channel(failed=self._failures > 0)
                self._generation += 1
                sink = _Sink(self, self._generation)
                self._call = channel.stream(_WATCH_PATH, sink, metadata=metadata)
                for watch in self._watches.values():
                    watch.fragments = []
                    self._call.send(watch.create_request())
        finally:
            self._opening = None

    def _ask(self) -> None:
        """Ask how far the watches are, again and again while there are any."""
        self._asking = asyncio.get_running_loop().call_later(_ASK_S, self._ask) if self._watches else None
        if self._asking is not None and self._call is not None:
            self._call.send(_ASK)

    def lost(self, generation: int, error: RpcError | None) -> None:
        """The stream ended."""
        if generation != self._generation or self._closed:
            return
        self._call = None
        self._failures += 1
        self.reconnects[error.status.name if error else "ended"] += 1
        if self._watches:
            self._open()

    def response(self, generation: int, data: bytes) -> None:
        """One message of the stream."""
        if generation != self._generation:
            return
        response = pb.WatchResponse.FromString(data)
        self._failures = 0
        self._heard_s = asyncio.get_running_loop().time()
        cluster_id = response.header.cluster_id
        if cluster_id != self._cluster_id:
            if self._cluster_id and cluster_id:
                self._cluster_id = cluster_id
                self._lose_all("etcd's cluster has been replaced")
                return
            self._cluster_id = cluster_id or self._cluster_id
        watch = self._watches.get(response.watch_id)
        if watch is None:
            return
        if response.canceled:
            del self._watches[watch.number]
            compacted = response.compact_revision
            watch.on_lost(f"compacted at revision {compacted}" if compacted else response.cancel_reason or "cancelled")
            return
        if not response.events:
            return
        events = [_event(event) for event in response.events]
        if response.fragment:
            watch.fragments.extend(events)
            return
        if watch.fragments:
            events, watch.fragments = watch.fragments + events, []
        # A resumed watch may begin inside a revision that was delivered whole; nothing is told twice.
        if events[0].kv.mod_revision < watch.next_revision:
            events = [event for event in events if event.kv.mod_revision >= watch.next_revision]
            if not events:
                return
        revision = events[-1].kv.mod_revision
        watch.next_revision = revision + 1
        watch.on_events(revision, events)

    def _lose_all(self, reason: str) -> None:
        watches, self._watches = list(self._watches.values()), {}
        for watch in watches:
            watch.on_lost(reason)


class _Sink:
    """The stream's receiving end."""

    __slots__ = ("_generation", "_stream")

    def __init__(self, stream: WatchStream, generation: int) -> None:
        self._stream = stream
        self._generation = generation

    def on_message(self, message: bytes) -> None:
        self._stream.response(self._generation, message)

    def on_half_close(self) -> None:
        pass

    def on_writable(self) -> None:
        pass

    def on_closed(self, error: RpcError | None) -> None:
        self._stream.lost(self._generation, error)
