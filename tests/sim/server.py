"""The etcd that replicas of a simulation talk to: the model behind links that delay, lose and cut, with leases that run out and watches that lag.

A request may be applied after its client has given up on it, and after later requests; an answer may be lost. `Client` keeps the contract of
`scheduler.etcd.api.Etcd`.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from scheduler.etcd.api import (
    DEFAULT_TIMEOUT_S,
    Compare,
    Event,
    EventsCallback,
    LostCallback,
    Operation,
    Outcome,
    Put,
    Range,
    RangeResult,
    Txn,
    TxnResult,
)
from scheduler.etcd.errors import EtcdError, EtcdUnavailable, LeaseNotFound
from tests.sim.loop import Machine, SimLoop
from tests.sim.model import Model

ELECTION_S = 1.0
_ATTEMPT_S = 1.5
_RETRY_PAUSE_S = 0.05


class NoAnswer(Exception):
    """The answer was lost, or the request: nobody knows."""


class Link:
    """One machine's way to etcd."""

    def __init__(self) -> None:
        self.cut_up = self.cut_down = False
        self.loss = 0.0
        self.delay_s = 0.0  # of single messages, on top; they overtake each other
        self.watch_delay_s = 0.0
        self.held: list[Callable[[], None]] = []
        self.stalled: dict[Watch, None] = {}
        self.pending: dict[asyncio.Future[Any], None] = {}

    @property
    def prompt(self) -> bool:
        return not (self.delay_s or self.watch_delay_s)

    @property
    def whole(self) -> bool:
        return not (self.cut_up or self.cut_down)


class Watch:
    def __init__(
        self, client: "Client", key: bytes, end: bytes, start: int, on_events: EventsCallback, on_lost: LostCallback
    ):
        self.client = client
        self.key = key
        self.end = end or key + b"\0"
        self.next_revision = start
        self.on_events = on_events
        self.on_lost = on_lost
        self.over = False
        self.pumped_at_s: float | None = None  # when what is new will have come
        self.away = False  # to be made again

    def cancel(self) -> None:
        self.over = True
        self.client.watches.pop(self, None)

    def deliver(self, revision: int, events: list[Event]) -> None:
        if not self.over:
            self.on_events(revision, events)

    def lose(self, reason: str) -> None:
        if not self.over:
            self.cancel()
            self.on_lost(reason)


class Server:
    """One etcd cluster, seen from outside."""

    def __init__(self, loop: SimLoop, rng: random.Random, model: Model) -> None:
        self.loop = loop
        self.rng = rng
        self.model = model
        model.changed = self._changed
        self.clients: list[Client] = []
        self.sender: Client | None = None
        self.sent_s = 0.0
        self.latency_s = (0.0004, 0.003)
        self.waiting: list[Callable[[], None]] | None = None  # requests that a stalled leader has not answered
        self.expires: dict[int, float] = {}
        self.losing: dict[str, float] = {}  # how likely an answer is lost, by what was asked
        # What a checker wants to hear: each revision with its sender, each request at its steps, each lease's end.
        self.heard: Callable[[int, list[Event], Client | None], None] = lambda *_: None
        self.step: Callable[[str, str, Client], None] = lambda *_: None
        self.lease_ended: Callable[[int, str], None] = lambda *_: None

    def _latency(self, link: Link) -> float:
        extra = self.rng.random() * link.delay_s if link.delay_s else 0.0
        return self.rng.uniform(*self.latency_s) + extra

    # Requests

    def send(
        self, client: "Client", label: str, work: Callable[[], Any], future: "asyncio.Future[Any]", deadline: float
    ) -> None:
        """Deliver `work` to etcd and its result to the future, or let either get lost; at the deadline the client gives up."""
        rng, link, loop = self.rng, client.link, self.loop
        sent_s = loop.now
        self.step(label, "before", client)
        if not client.machine.alive:
            return
        link.pending[future] = None

        def give_up() -> None:
            link.pending.pop(future, None)
            if not future.done():
                future.set_exception(NoAnswer())

        def arrive() -> None:
            if self.waiting is not None:
                self.waiting.append(arrive)
                loop.at(max(deadline, loop.now), give_up)
                return
            self.sender, self.sent_s = client, sent_s
            result: Any = None
            error: EtcdError | None = None
            try:
                result = work()
            except EtcdError as caught:
                error = caught
            finally:
                self.sender = None
            if error is None:
                self.step(label, "after", client)
            latency_s = self._latency(link)
            lost = link.cut_down or (link.loss and rng.random() < link.loss)
            lost = lost or (label in self.losing and rng.random() < self.losing[label])
            if lost or loop.now + latency_s > deadline:
                loop.at(max(deadline, loop.now), give_up)
            else:
                loop.later(latency_s, answer, result, error)

        def answer(result: Any, error: EtcdError | None) -> None:
            link.pending.pop(future, None)
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        latency_s = self._latency(link)
        if link.cut_up or (link.loss and rng.random() < link.loss):
            fate = rng.random()
            if link.cut_up and fate < 0.3:
                loop.later(min(rng.uniform(0.01, 1.0), deadline - loop.now), self._refuse, link, future)
                return
            loop.at(deadline, give_up)
            if fate < 0.7:
                if link.cut_up:
                    link.held.append(arrive)
                else:
                    loop.later(rng.uniform(0.2, 6.0), arrive)
            return
        if loop.now + latency_s > deadline:
            loop.at(deadline, give_up)
        loop.later(latency_s, arrive)

    def _refuse(self, link: Link, future: "asyncio.Future[Any]") -> None:
        link.pending.pop(future, None)
        if not future.done():
            future.set_exception(EtcdUnavailable("cannot connect"))

    # Links

    def heal(self, client: "Client") -> None:
        """The link works again: what was held arrives late, watches are made again."""
        link, rng = client.link, self.rng
        link.cut_up = link.cut_down = False
        held, link.held = link.held, []
        for arrive in held:
            self.loop.later(rng.uniform(0.001, 0.3), arrive)
        stalled, link.stalled = link.stalled, {}
        for watch in stalled:
            self._schedule(watch, rng.uniform(0.05, 0.9))
            watch.away = True

    def reset(self, client: "Client") -> None:
        """The connection breaks: nobody answers what is on its way, whatever becomes of it."""
        pending, client.link.pending = client.link.pending, {}
        for future in pending:
            if not future.done():
                future.set_exception(NoAnswer())

    # Leader

    def stall(self) -> None:
        """The leader stops: requests wait, leases stand still."""
        if self.waiting is None:
            self.waiting = []

    def resume(self, *, elected: bool) -> None:
        """The leader goes on, or another is elected, which gives every lease its whole term again."""
        waiting, self.waiting = self.waiting or [], None
        if elected:
            for lease_id in self.expires:
                self._arm(lease_id, ELECTION_S)
        for arrive in waiting:
            if elected and self.rng.random() < 0.3:
                continue  # lost with the old leader
            self.loop.later(self.rng.uniform(0.0, 0.05), arrive)

    # Leases

    def _arm(self, lease_id: int, extra_s: float = 0.0) -> None:
        lease = self.model.leases[lease_id]
        self.expires[lease_id] = self.loop.now + lease.ttl_s + extra_s

    def _check_expiry(self, lease_id: int, slack_s: float) -> None:
        at = self.expires.get(lease_id)
        if at is None:
            return
        if self.waiting is not None:
            self.loop.later(0.5, self._check_expiry, lease_id, slack_s)
        elif self.loop.now >= at + slack_s - 1e-6:
            self.end_lease(lease_id, "expired")
        else:
            self.loop.at(at + slack_s, self._check_expiry, lease_id, slack_s)

    def end_lease(self, lease_id: int, reason: str) -> None:
        self.expires.pop(lease_id, None)
        self.lease_ended(lease_id, reason)
        self.model.lease_revoke(lease_id)
        self.lease_ended(0, "released")

    def grant(self, ttl_s: int, lease_id: int) -> int:
        granted = self.model.lease_grant(ttl_s, lease_id)
        self._arm(granted)
        slack_s = self.rng.uniform(0.2, 0.7)
        self.loop.at(self.expires[granted] + slack_s, self._check_expiry, granted, slack_s)
        return granted

    def keep_alive(self, lease_id: int) -> float:
        lease = self.model.leases.get(lease_id)
        if lease is None:
            return 0.0
        self._arm(lease_id)
        return float(lease.ttl_s)

    def revoke(self, lease_id: int) -> None:
        if lease_id not in self.model.leases:
            raise LeaseNotFound("requested lease not found")
        self.end_lease(lease_id, "revoked")

    # Watches

    def _changed(self, revision: int, events: list[Event]) -> None:
        self.heard(revision, events, self.sender)
        for client in self.clients:
            for watch in client.watches:
                if watch.pumped_at_s is None or (client.link.prompt and not watch.away):
                    key, end = watch.key, watch.end
                    for event in events:
                        if key <= event.kv.key < end:
                            self._schedule(watch)
                            break

    def _schedule(self, watch: Watch, extra_s: float = 0.0) -> None:
        link = watch.client.link
        if link.watch_delay_s and not extra_s:
            extra_s += self.rng.random() * link.watch_delay_s
        at_s = self.loop.now + self._latency(link) + extra_s
        # What comes later brings along what came before; a link that is slow no longer is not slow for what it had slowed down.
        if watch.over or (watch.pumped_at_s is not None and (watch.pumped_at_s <= at_s or not link.prompt)):
            return
        watch.pumped_at_s = at_s
        self.loop.at(at_s, self._pump, watch)

    def _pump(self, watch: Watch) -> None:
        watch.pumped_at_s, watch.away = None, False
        client = watch.client
        if watch.over or not client.machine.alive:
            return
        if not client.link.whole:
            client.link.stalled[watch] = None
            return
        if watch.next_revision < self.model.compacted:
            client.machine.call(watch.lose, f"compacted at revision {self.model.compacted}")
            return
        found: list[Event] = []
        revision = 0
        for revision_of, events in self.model.events_from(watch.next_revision):
            mine = [event for event in events if watch.key <= event.kv.key < watch.end]
            if mine:
                if found and self.rng.random() < 0.2:
                    self._schedule(watch)
                    break
                found += mine
                revision = revision_of
        if found:
            watch.next_revision = revision + 1
            client.machine.call(watch.deliver, revision, found)

    def cancel_watch(self, watch: Watch) -> None:
        """For a reason of its own: compacted, out of step, out of memory."""
        if not watch.over:
            watch.client.machine.call(watch.lose, "cancelled by the server")


class Client:
    """One replica's etcd client."""

    def __init__(self, server: Server, machine: Machine) -> None:
        self.server = server
        self.machine = machine
        self.link = Link()
        self.watches: dict[Watch, None] = {}
        self.requests: dict[tuple[str, str], int] = {}
        self.name = machine.name
        server.clients.append(self)
        # By lease, the start of each keepalive and grant that was answered, and of the last that was tried.
        self.trusted_s: dict[int, float] = {}
        self.tried_s: dict[int, float] = {}

    async def _ask(self, label: str, work: Callable[[], Any], timeout_s: float) -> Any:
        loop = self.server.loop
        future: asyncio.Future[Any] = loop.create_future()
        self.server.send(self, label, work, future, loop.now + timeout_s)
        return await future

    async def _read(self, work: Callable[[], Any], timeout_s: float) -> Any:
        loop = self.server.loop
        deadline = loop.now + timeout_s
        while True:
            try:
                return await self._ask("read", work, min(deadline - loop.now, max(_ATTEMPT_S, timeout_s / 3)))
            except (NoAnswer, EtcdUnavailable) as error:
                if loop.now + _RETRY_PAUSE_S >= deadline:
                    raise EtcdUnavailable("no answer in time") from error
                await asyncio.sleep(_RETRY_PAUSE_S)

    async def range(self, request: Range, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> RangeResult:
        return await self._read(lambda: self.server.model.range(request), timeout_s)

    async def pages(
        self, key: bytes, range_end: bytes, *, page_size: int, revision: int = 0, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> AsyncIterator[RangeResult]:
        while True:
            page = await self.range(Range(key, range_end, limit=page_size, revision=revision), timeout_s=timeout_s)
            revision = revision or page.revision
            yield page
            if not page.more:
                return
            key = page.kvs[-1].key + b"\0"

    async def txn(
        self,
        compares: Sequence[Compare],
        success: Sequence[Operation],
        failure: Sequence[Operation] = (),
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> TxnResult:
        def work() -> TxnResult:
            return self.server.model.txn(compares, success, failure)

        if all(type(operation) is Range for operation in (*success, *failure)):
            return await self._read(work, timeout_s)
        try:
            return await self._ask(label_of(success, failure), work, timeout_s)
        except NoAnswer:
            return TxnResult(Outcome.UNKNOWN, 0, [])

    async def lease_grant(self, ttl_s: int, *, lease_id: int = 0, timeout_s: float = DEFAULT_TIMEOUT_S) -> int:
        started_s = self.server.loop.now
        try:
            granted = await self._ask("lease grant", lambda: self.server.grant(ttl_s, lease_id), timeout_s)
        except NoAnswer as error:
            raise EtcdUnavailable("the answer to a lease grant was lost") from error
        self.trusted_s[granted] = self.tried_s[granted] = started_s
        return granted

    async def lease_keep_alive(self, lease_id: int, *, timeout_s: float) -> float:
        self.tried_s[lease_id] = started_s = self.server.loop.now
        try:
            ttl_s = await self._ask("keepalive", lambda: self.server.keep_alive(lease_id), timeout_s)
        except NoAnswer as error:
            raise EtcdUnavailable("no answer") from error
        if ttl_s:
            self.trusted_s[lease_id] = max(started_s, self.trusted_s.get(lease_id, 0.0))
        return ttl_s

    async def lease_revoke(self, lease_id: int, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        try:
            await self._ask("lease revoke", lambda: self.server.revoke(lease_id), timeout_s)
        except LeaseNotFound:
            return
        except NoAnswer as error:
            raise EtcdUnavailable("the answer to a lease revocation was lost") from error

    async def lease_keys(self, lease_id: int, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> tuple[float, list[bytes]]:
        def work() -> tuple[float, list[bytes]]:
            lease = self.server.model.leases.get(lease_id)
            if lease is None:
                return -1.0, []
            return self.server.expires[lease_id] - self.server.loop.now, sorted(lease.keys)

        return await self._read(work, timeout_s)

    def watch(
        self, key: bytes, range_end: bytes, *, start_revision: int, on_events: EventsCallback, on_lost: LostCallback
    ) -> Watch:
        watch = Watch(self, key, range_end, start_revision, on_events, on_lost)
        self.watches[watch] = None
        self.server._schedule(watch)
        return watch


def label_of(success: Sequence[Operation], failure: Sequence[Operation]) -> str:
    """What a write is for, by the keys that it touches."""
    for operation in (*success, *failure):
        kind = type(operation)
        if kind is Range:
            continue
        if kind is Txn:
            return label_of(operation.success, operation.failure)
        key = operation.key
        if b"/claims/" in key:
            return "claim" if kind is Put else "release"
        if b"/journal/" in key:
            return "commit" if kind is Put else "checkpoint clean-up"
        if b"/checkpoint/" in key:
            return "checkpoint part"
        if b"/jobs/" in key and key.count(b"/") < 4:
            return "mark"
        if b"/jobs/" in key:
            return "job put" if kind is Put else "job delete"
        if b"/members/" in key:
            return "member"
        return "meta"
    return "read"
