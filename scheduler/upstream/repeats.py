"""Occurrences that have been done here lately: one that comes again, because its answer was lost with a stream or a scheduler, is not done again."""

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb

Identity = tuple[str, int, int]
"""A job's name, its generation, and which of its occurrences; the same in every delivery of it."""

_REMEMBERED = 10_000


def identity_of(trigger: pb.WatchJobsResponse) -> Identity | None:
    """None from a scheduler that does not say it."""
    occurrence = trigger.occurrence
    return (trigger.name, occurrence.generation, occurrence.index) if occurrence.generation else None


class Done:
    """The last that were done, so many of them; those that failed are no repeats when they come again."""

    def __init__(self, size: int = _REMEMBERED) -> None:
        """Nothing has been done yet."""
        self._size = size
        self._done: dict[Identity, None] = {}

    def add(self, identity: Identity | None) -> None:
        """This one has been done."""
        if identity is not None:
            self._done[identity] = None
            if len(self._done) > self._size:
                del self._done[next(iter(self._done))]

    def __contains__(self, identity: Identity | None) -> bool:
        return identity in self._done
