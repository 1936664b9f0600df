"""The record of a cluster's life-long facts: its format and its number of partitions."""

from google.protobuf.message import DecodeError

from scheduler._pb.scheduler_storage.v1.storage_pb2 import Meta
from scheduler.etcd.api import Compare, CompareTarget, Etcd, Outcome, Put, Range
from scheduler.store.errors import WrongCluster

FORMAT_VERSION = 1


async def check_meta(etcd: Etcd, key: bytes, partition_count: int) -> None:
    """Make the record where there is none. Raises WrongCluster where it is not for us, EtcdError while etcd is not there."""
    meta = Meta(format_version=FORMAT_VERSION, partition_count=partition_count, cluster_id=1)
    absent = (Compare(key, CompareTarget.CREATE_REVISION, 0),)
    result = await etcd.txn(absent, (Put(key, meta.SerializeToString()),), (Range(key),))
    if result.outcome is Outcome.COMMITTED:
        return
    found = await etcd.range(Range(key))
    if not found.kvs:
        raise WrongCluster("the cluster's meta record could not be written")
    try:
        stored = Meta.FromString(found.kvs[0].value)
    except DecodeError as error:
        raise WrongCluster(f"the record {key.decode()!r} in etcd is not a scheduler's: {error}") from error
    if stored.format_version > FORMAT_VERSION:
        raise WrongCluster(f"data has format {stored.format_version}; this version reads up to {FORMAT_VERSION}")
    if stored.partition_count != partition_count:
        raise WrongCluster(
            f"--partitions is {partition_count}, and the cluster in etcd was created with {stored.partition_count}: "
            f"start with --partitions {stored.partition_count}; the number is fixed for a cluster's life"
        )
