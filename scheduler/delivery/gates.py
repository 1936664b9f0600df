"""Concurrency limits (scheduler-service.md 5.7): how many triggers of an actor type, or of a key within it, may be in flight in the cluster.

A stream declares limits; each makes a `Gate`. A replica fills its own share of a gate (`core.shares`).
"""

from collections.abc import Hashable


class Gate:
    """One limit: of an actor type (`name` None), or of one concurrency key within it."""

    __slots__ = ("_declared", "in_flight", "key", "label", "limit", "name", "room", "throttled")

    def __init__(self, target_key: str, name: str | None) -> None:
        """`key` tells it from all gates of the cluster; `label` is what metrics call it."""
        actor_type = target_key.rsplit("||", 1)[1]
        self.key = target_key if name is None else f"{target_key}||{name}"
        self.label = actor_type if name is None else f"{actor_type}:{name}"
        self.name = name
        self.limit = 0
        self.room = 0  # what may be in flight at this replica, by `Shares`
        self.in_flight = 0
        self.throttled = 0
        self._declared: dict[Hashable, int] = {}

    @property
    def open(self) -> bool:
        """Whether one more trigger may be sent."""
        return self.in_flight < self.room

    def declare(self, stream: Hashable, limit: int) -> None:
        """The most recent declaration wins."""
        self._declared.pop(stream, None)
        self._declared[stream] = self.limit = limit

    def withdraw(self, stream: Hashable) -> bool:
        """The stream is gone. False: nobody declares this gate any more."""
        self._declared.pop(stream, None)
        if self._declared:
            self.limit = next(reversed(self._declared.values()))
        return bool(self._declared)
