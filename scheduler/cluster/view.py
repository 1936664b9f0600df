"""The cluster as etcd has it: members and claims, by what was read and what the watches have told since."""

from typing import NamedTuple

from google.protobuf.message import DecodeError

from scheduler._pb.scheduler_storage.v1.storage_pb2 import Claim, Member
from scheduler.etcd.api import KeyValue
from scheduler.logs import get_logger
from scheduler.store.keys import Keys

_log = get_logger("cluster")


class Claimed(NamedTuple):
    """One claim."""

    replica: str
    epoch: int
    lease: int


class View:
    """Members by name, the revisions that made their keys, and claims by partition."""

    def __init__(self, keys: Keys) -> None:
        """Empty."""
        self._keys = keys
        self.members: dict[str, Member] = {}
        self.joined: dict[str, int] = {}
        self.claims: dict[int, Claimed] = {}

    def clear(self) -> None:
        """Before a read of all."""
        self.members, self.joined, self.claims = {}, {}, {}

    def is_member(self, kv: KeyValue) -> bool:
        """Whether a key is a member's; else it is a claim's."""
        return kv.key.startswith(self._keys.members)

    def _name(self, kv: KeyValue) -> str:
        return kv.key.removeprefix(self._keys.members).decode("utf-8", "replace")

    def take(self, kv: KeyValue) -> None:
        """One member or claim; a record that is none is ignored, and said so."""
        try:
            if self.is_member(kv):
                name = self._name(kv)
                self.members[name], self.joined[name] = Member.FromString(kv.value), kv.create_revision
            else:
                partition = self._keys.claim_partition(kv.key)
                claim = Claimed(Claim.FromString(kv.value).replica, kv.create_revision, kv.lease)
                if self._is_news(partition, claim.epoch):
                    self.claims[partition] = claim
        except (DecodeError, ValueError) as error:
            _log.error("cluster_record_corrupt", key=kv.key.decode("utf-8", "replace"), error=str(error))

    def remove(self, kv: KeyValue) -> str | int | None:
        """The member's name, or the partition, whose key has been deleted; None: it was none, or is there again."""
        if self.is_member(kv):
            name = self._name(kv)
            self.members.pop(name, None)
            self.joined.pop(name, None)
            return name
        try:
            partition = self._keys.claim_partition(kv.key)
        except ValueError:
            return None
        if not self._is_news(partition, kv.mod_revision):
            return None
        self.claims.pop(partition, None)
        return partition

    def _is_news(self, partition: int, revision: int) -> bool:
        """Whether something is later than what is known of a claim: our own we know before the watch tells of those before them."""
        known = self.claims.get(partition)
        return known is None or revision >= known.epoch
