"""The life of one accepted job, occurrence by occurrence (scheduler-service.md 2.5, 2.6, 5.6): the rules, and nothing that acts on them.

A `Job` is one generation: one accepted write. Its occurrences are strictly serial. Each transition below is called by the engine, which
commits the progress it leaves behind before the next occurrence may be armed. Instants are integer nanoseconds since the epoch, UTC.
"""

from enum import IntEnum
from typing import Any, NamedTuple

from scheduler.core.schedule import Schedule

# Where nothing else spaces deliveries by as much (a tiny period, an interval of zero), a job may burst this often; from then on it is paced, so
# that no job is a hot loop (W8).
BURST_MAX = 1_000
PACE_NS = 10_000_000


class FailurePolicy(NamedTuple):
    """What a FAILED answer leads to: at most `max_retries` (None: without end) further attempts, `interval_ns` apart. Drop is zero retries."""

    interval_ns: int
    max_retries: int | None


DROP = FailurePolicy(0, 0)
DEFAULT_POLICY = FailurePolicy(1_000_000_000, 3)


class State(IntEnum):
    """Where a job is between two of its occurrences; each legal move is made by exactly one engine method."""

    ARMED = 0  # its timer is running
    WAITING = 1  # due, but no stream can take it (staged), or its turn has not come
    IN_FLIGHT = 2  # sent, not acknowledged
    SETTLED = 3  # acknowledged, not committed
    DONE = 4  # its last occurrence is settled: once that is committed, its record is deleted
    GONE = 5  # deleted, overwritten or handed over: whoever still holds it must let it fall


class Progress(NamedTuple):
    """What the ledger keeps of a job. Merging is monotone in (done, finished, attempts), so order and repetition do not matter."""

    generation: int
    finished: int  # occurrences
    attempts: int  # failed attempts of the current occurrence
    last_ns: int  # the scheduled time of the last finished occurrence; meaningless while none is finished
    retry_ns: int  # when the next attempt is due; meaningless while attempts is 0
    done: bool

    def supersedes(self, other: "Progress") -> bool:
        """Whether this is later in the same generation's life than `other`."""
        return (self.done, self.finished, self.attempts) > (other.done, other.finished, other.attempts)


class Job:
    """One generation of a job on the replica that owns it. Slotted and bare: a replica holds a million of these."""

    __slots__ = (
        "attempts",
        "concurrency_key",
        "count",
        "expires_ns",
        "fire_ns",
        "generation",
        "key",
        "last_ns",
        "partition",
        "planned_ns",
        "policy",
        "repeats",
        "revision",
        "schedule",
        "sent_ns",
        "state",
        "target",
        "timer",
        "trigger",
    )

    def __init__(
        self,
        *,
        key: bytes,
        generation: int,
        revision: int,
        trigger: bytes,
        schedule: Schedule | None,
        repeats: int | None,
        first_ns: int | None,
        expires_ns: int | None,
        policy: FailurePolicy,
        progress: Progress | None = None,
    ) -> None:
        """Put the job where its recorded progress left it; `state` is DONE where nothing is left to fire."""
        self.key = key
        self.generation = generation
        self.revision = revision
        # Its bytes; None while they rest in etcd.
        self.trigger: Any = trigger
        self.schedule = schedule
        self.repeats = repeats
        self.expires_ns = expires_ns
        self.policy = policy
        self.partition: Any = None
        self.target: Any = None
        self.concurrency_key: str | None = None
        self.timer: Any = None
        # When it was sent; once that is answered: when it was answered.
        self.sent_ns = 0
        self.state = State.ARMED
        self.count = 0
        self.attempts = 0
        self.last_ns = 0
        self.planned_ns = self.fire_ns = 0
        if progress is not None and progress.done:
            self.count, self.last_ns, self.state = progress.finished, progress.last_ns, State.DONE
            return
        if progress is None or progress.finished == 0:
            planned = first_ns if first_ns is not None and (expires_ns is None or first_ns <= expires_ns) else None
        else:
            self.count, self.last_ns = progress.finished, progress.last_ns
            planned = self._next_planned()
        if planned is None:
            self.state = State.DONE
            return
        self.planned_ns = self.fire_ns = planned
        if progress is not None and progress.attempts:
            self.attempts = progress.attempts
            self.fire_ns = progress.retry_ns

    def _next_planned(self) -> int | None:
        """The scheduled time after `last_ns`; None: the job is finished."""
        if self.schedule is None or (self.repeats is not None and self.count >= self.repeats):
            return None
        planned = self.schedule.next_after(self.last_ns)
        if planned is None or (self.expires_ns is not None and planned > self.expires_ns):
            return None
        return planned

    def succeed(self, now_ns: int) -> None:
        """The current occurrence is finished: SETTLED with the next one planned, or DONE where none is left.

        The next time follows from the scheduled time, never from now: a job does not drift, and missed occurrences are caught up one by one.
        """
        self.state = State.SETTLED
        self.last_ns = last = self.planned_ns
        self.count += 1
        self.attempts = 0
        planned = self._next_planned()
        if planned is None:
            self.state = State.DONE
            return
        self.planned_ns = planned
        hot = planned - last < PACE_NS and self.count >= BURST_MAX
        self.fire_ns = max(planned, now_ns + PACE_NS) if hot else planned

    def fail(self, now_ns: int) -> None:
        """The app answered FAILED: another attempt after the policy's interval, or the occurrence is given up, which counts as finished.

        The interval counts from now (or from the planned time, where that is later), so a slow failure never shortens it (W13).
        """
        max_retries, attempts = self.policy.max_retries, self.attempts + 1
        if max_retries is not None and attempts > max_retries:
            self.succeed(now_ns)
            return
        self.state = State.SETTLED
        self.attempts = attempts
        interval = self.policy.interval_ns
        if interval < PACE_NS and attempts >= BURST_MAX:
            interval = PACE_NS
        self.fire_ns = max(now_ns, self.fire_ns) + interval

    def progress(self) -> Progress:
        """What the ledger must know of the job as it stands."""
        return Progress(
            self.generation,
            self.count,
            self.attempts,
            self.last_ns,
            self.fire_ns if self.attempts else 0,
            self.state is State.DONE,
        )

    def __repr__(self) -> str:
        return f"<Job {self.key!r} {self.state.name} generation={self.generation:x} count={self.count} attempts={self.attempts} planned_ns={self.planned_ns}>"
