"""Lease trust: how long this replica may act on its lease (design 5).

Local time only ever makes us stop sooner, never act longer; etcd stays the authority. Times are seconds of CLOCK_BOOTTIME.
"""


class Tenure:
    """Trust in one lease after the other."""

    __slots__ = ("_margin_s", "confirmed", "lapses", "trusted_until_s")

    def __init__(self, margin_s: float) -> None:
        """`margin_s` is taken off every term: what clocks and a slow stop may cost."""
        self._margin_s = margin_s
        self.trusted_until_s = float("-inf")
        # How often the lease went on after a time without trust, and how many of those times are made up for.
        self.lapses = self.confirmed = 0

    def renew(self, attempt_started_s: float, ttl_s: float, now_s: float) -> None:
        """A grant or keepalive was answered: the term counts from before the attempt; a late answer shortens nothing.

        Trust that had lapsed by `now_s` comes back with `confirm` only: what this replica knows may be as old as the lapse.
        """
        if float("-inf") < self.trusted_until_s <= now_s:
            self.lapses += 1
        self.trusted_until_s = max(self.trusted_until_s, attempt_started_s + ttl_s - self._margin_s)

    def confirm(self, lapses: int) -> None:
        """What this replica knows is newer than its lease's going on after the first `lapses` lapses."""
        self.confirmed = max(self.confirmed, lapses)

    @property
    def doubted(self) -> bool:
        """Whether trust has lapsed since what this replica knows was last confirmed."""
        return self.confirmed < self.lapses

    def end(self) -> None:
        """The lease is gone, and all that was held under it."""
        self.trusted_until_s = float("-inf")
        self.confirmed = self.lapses

    def may_act(self, now_s: float) -> bool:
        """Whether acting is still allowed."""
        return now_s < self.trusted_until_s and self.confirmed == self.lapses
