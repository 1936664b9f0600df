"""The store's errors, as the API's callers see them; each has one status in rpc/status.py."""

from scheduler.core.errors import SchedulerError


class StoreError(SchedulerError):
    """Root: a request to the store that was not carried out, or whose fate is not known."""


class JobExists(StoreError):
    """A create found another job of that name."""


class StoreUnavailable(StoreError):
    """etcd has no majority, or did not answer in time. A write may or may not be in force: repeating it is safe."""


class StoreFull(StoreError):
    """etcd is out of space and refuses writes until an operator frees some."""


class StoreBusy(StoreError):
    """More writes wait for etcd than may; nothing was done."""


class RecordTooLarge(StoreError):
    """The record is larger than etcd is configured to take."""


class WrongCluster(StoreError):
    """What lies in etcd was made with another format or partition count than this replica was started with."""
