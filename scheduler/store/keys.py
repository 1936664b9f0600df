"""Every key that lies in etcd is spelled here (design: what lies in etcd), and nowhere else.

Keys are text under one root, so that an operator can read them with any etcd client. Partition numbers have a fixed width, so that
the partitions of a prefix sort by number.
"""

from hashlib import blake2b


def range_end(prefix: bytes) -> bytes:
    """The end of the range of all keys that start with `prefix` (which must not be empty or all 0xff)."""
    end = bytearray(prefix)
    while end[-1] == 0xFF:
        end.pop()
    end[-1] += 1
    return bytes(end)


def partition_of(key: str, partition_count: int) -> int:
    """The partition of a job's storage key: stable across processes, versions and machines."""
    return (
        int.from_bytes(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") % partition_count
    )


def target_key(key: bytes) -> str:
    """The first three segments of a job's storage key."""
    return b"||".join(key.split(b"||", 3)[:3]).decode("utf-8", "surrogatepass")


class Keys:
    """The key layout under one root. `root` is a path such as "/scheduler"; several clusters may share an etcd under different roots."""

    __slots__ = ("_claims", "_jobs", "_ledger", "_members", "meta", "quota", "root")

    def __init__(self, root: str = "/scheduler") -> None:
        self.root = root.rstrip("/")
        self.meta = f"{self.root}/meta".encode()
        # Without content; written along with creates, so that etcd's quota counts them (store/jobs.py).
        self.quota = f"{self.root}/quota".encode()
        self._members = f"{self.root}/members/"
        self._claims = f"{self.root}/claims/"
        self._jobs = f"{self.root}/jobs/"
        self._ledger = f"{self.root}/ledger/"

    @property
    def members(self) -> bytes:
        """The prefix of all members."""
        return self._members.encode()

    def member(self, replica: str) -> bytes:
        """One member's key."""
        return f"{self._members}{replica}".encode()

    @property
    def claims(self) -> bytes:
        """The prefix of all claims."""
        return self._claims.encode()

    def claim(self, partition: int) -> bytes:
        """The key by which a replica owns a partition."""
        return f"{self._claims}{partition:05d}".encode()

    def claim_partition(self, key: bytes) -> int:
        """The partition of a claim's key; ValueError for a key that is none."""
        return int(key.removeprefix(self.claims))

    @property
    def jobs(self) -> bytes:
        """The prefix of all jobs."""
        return self._jobs.encode()

    def partition_jobs(self, partition: int) -> bytes:
        """The prefix of one partition's jobs."""
        return f"{self._jobs}{partition:05d}/".encode()

    def mark(self, partition: int) -> bytes:
        """A key without content right before a partition's jobs: written to see a watch on them tell of it."""
        return f"{self._jobs}{partition:05d}".encode()

    def job(self, partition: int, key: str) -> bytes:
        """One job's key."""
        return f"{self._jobs}{partition:05d}/{key}".encode("utf-8", "surrogatepass")

    def partition_ledger(self, partition: int) -> bytes:
        """The prefix of one partition's ledger: journal and checkpoint."""
        return f"{self._ledger}{partition:05d}/".encode()

    def journal(self, partition: int, sequence: int) -> bytes:
        """One batch of the journal."""
        return f"{self._ledger}{partition:05d}/journal/{sequence:016x}".encode()

    def checkpoint(self, partition: int, sequence: int, part: int) -> bytes:
        """One part of the checkpoint that folds every journal batch below `sequence`."""
        return f"{self._ledger}{partition:05d}/checkpoint/{sequence:016x}/{part:04d}".encode()
