"""Each replica's share of a cluster-wide limit, without overshoot while the members change (scheduler-service.md 5.7).

A share that shrinks does so at once; one that grows waits until every other replica has published that it keeps to the new
division, and leaves free by what they still exceed it. So the sum over the cluster stays within any limit that is at least the number of
replicas. A smaller limit is one for each replica.
"""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import NamedTuple


def share(limit: int, replicas: int, place: int) -> int:
    """What the replica at `place` (from 0) of `replicas` may have in flight of a limit."""
    if replicas <= 1:
        return limit
    base, rest = divmod(limit, replicas)
    return max(1, base + (place < rest))


def basis_of(members: Mapping[str, int]) -> int:
    """A number, not 0, that stands for this set of members: each one's name and when it joined, since one that has left and come back is another."""
    text = "\0".join(f"{name}\0{joined}" for name, joined in sorted(members.items()))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) or 1


class Seat(NamedTuple):
    """A replica's place among the members, which its shares follow from."""

    replicas: int
    place: int


class Peer(NamedTuple):
    """What another replica has published: the members that its shares are made for, and by how much gates still exceed them."""

    basis: int
    excess: Mapping[str, int]


class Shares:
    """This replica's seat, and what the others say of theirs."""

    def __init__(self) -> None:
        """No seat: nothing is allowed until `update` is told of one."""
        self.basis = 0
        self._seat: Seat | None = None
        self._agreed: Seat | None = None
        self._excess: dict[str, int] = {}

    def reset(self) -> None:
        """The lease is gone, and with it what was agreed: the others may use our share by now."""
        self.basis = 0
        self._seat = self._agreed = None

    def update(self, basis: int, seat: Seat, peers: Iterable[Peer]) -> None:
        """The members as they are now; `basis` stands for exactly this set."""
        self.basis = basis
        self._seat = seat
        peers = tuple(peers)
        if all(peer.basis == basis for peer in peers):
            self._agreed = seat
        self._excess = {}
        for peer in peers:
            for gate, count in peer.excess.items():
                self._excess[gate] = self._excess.get(gate, 0) + count

    def aim(self, limit: int) -> int:
        """Our share of a limit among the members as they are now."""
        return 0 if self._seat is None else share(limit, *self._seat)

    def allowed(self, gate: str, limit: int) -> int:
        """What we may have in flight right now: never more than the others have made room for."""
        if self._agreed is None:
            return 0
        return min(self.aim(limit), share(limit, *self._agreed)) - self._excess.get(gate, 0)
