"""Lease trust: how long this replica may act on its lease (design 5).

Local time only ever makes us stop sooner, never act longer; etcd stays the authority. Times are seconds of CLOCK_BOOTTIME.
"""


class Tenure:
    """Trust in one lease after the other."""

    __slots__ = ("_margin_s", "trusted_until_s")

    def __init__(self, margin_s: float) -> None:
        """`margin_s` is taken off every term: what clocks and a slow stop may cost."""
        self._margin_s = margin_s
        self.trusted_until_s = float("-inf")

    def renew(self, attempt_started_s: float, ttl_s: float) -> None:
        """A grant or keepalive was answered: the term counts from before the attempt; a late answer shortens nothing."""
        self.trusted_until_s = max(self.trusted_until_s, attempt_started_s + ttl_s - self._margin_s)

    def end(self) -> None:
        """The lease is gone."""
        self.trusted_until_s = float("-inf")

    def may_act(self, now_s: float) -> bool:
        """Whether acting is still allowed."""
        return now_s < self.trusted_until_s
