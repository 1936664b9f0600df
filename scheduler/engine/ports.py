"""What the engine needs of other rooms."""

from typing import Any, Protocol

from scheduler.core.lifecycle import Job


class Lease(Protocol):
    """The cluster's word on whether this replica may still act."""

    def may_act(self, boottime_s: float) -> bool:
        """False once the lease cannot be trusted any more."""


class Hub(Protocol):
    """The delivery room, as the engine sees it."""

    def target(self, key: str) -> Any:
        """The addressee behind the first three segments of a storage key; each job keeps its own."""

    def offer(self, job: Job, now_ns: int) -> None:
        """A due job: send it, or let it wait for a stream."""

    def withdraw(self, job: Job) -> None:
        """A job that waited for a stream is GONE."""

    def hold(self, jobs: list[Job]) -> None:
        """These jobs, which waited for a stream, are ARMED again and wait no longer: they will be offered anew."""

    def resume(self) -> None:
        """Firing is allowed again."""

    @property
    def sent(self) -> int:
        """Triggers that have left so far."""

    def oldest_waiting_ns(self, *, movable: bool) -> int | None:
        """Due time of the job that has waited longest; `movable`: among those that a stream has room for."""
