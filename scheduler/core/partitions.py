"""Which member owns which partition: the same answer on every replica, from the serving members alone (design 5).

Rendezvous hashing with bounded load: each partition goes to the member it ranks highest that still has room, and nobody has
room for more than one above the mean. A join or a leave moves little more than the share that must move.
"""

from collections.abc import Sequence
from hashlib import blake2b


def _rank(member: str, partition: int) -> bytes:
    return blake2b(f"{member}\0{partition}".encode(), digest_size=8).digest()


def assign(members: Sequence[str], partition_count: int) -> dict[int, str]:
    """Partition to member; empty without members. The order of `members` does not matter."""
    if not members:
        return {}
    names = sorted(set(members))
    capacity = -(-partition_count // len(names))
    load = dict.fromkeys(names, 0)
    assignment: dict[int, str] = {}
    # Strongest preferences first, so that a newcomer displaces nobody from a place that nobody else wants.
    ranked = sorted(
        ((_rank(name, partition), partition, name) for partition in range(partition_count) for name in names),
        reverse=True,
    )
    for _, partition, name in ranked:
        if partition not in assignment and load[name] < capacity:
            assignment[partition] = name
            load[name] += 1
    return assignment
