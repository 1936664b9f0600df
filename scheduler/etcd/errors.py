"""The etcd room's errors: named by what the caller should do."""


class EtcdError(Exception):
    """Root: a request that surely had no effect, or a read that failed."""


class EtcdUnavailable(EtcdError):
    """No endpoint answered in time, or there is no leader: try again later."""


class EtcdNoSpace(EtcdError):
    """The NOSPACE alarm is on: puts and lease grants fail until an operator frees space; deletes and keepalives work."""


class EtcdCompacted(EtcdError):
    """The revision asked for is compacted: read again at a newer one."""


class EtcdAuthError(EtcdError):
    """User, password or permission refused."""


class EtcdRequestError(EtcdError):
    """etcd refused the request itself (too large, too many operations, duplicate key): a retry would fail again."""


class LeaseNotFound(EtcdError):
    """The lease has expired or was revoked."""
