"""Jobs of deleted namespaces go (scheduler-service.md 6.4), also of those that were deleted while nobody looked (weakness W28).

One replica acts: the owner of partition 0. A namespace counts as deleted only when the API server answers 404 for its very name: neither
an empty list nor an event alone removes anything. Uses the account of the pod, or a kubeconfig file.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from kubernetes_asyncio import client, config, watch
from kubernetes_asyncio.client.exceptions import ApiException

from scheduler.core.names import namespace_prefixes
from scheduler.logs import get_logger
from scheduler.metrics import KubernetesStatistics
from scheduler.store.jobs import JobStore

# Everything is compared this often, whatever events have come.
RECONCILE_S = 300
_ACTING_POLL_S = 2.0
_RETRY_S = (1.0, 60.0)
_STORE_TIMEOUT_S = 30.0
_REQUEST_TIMEOUT_S = 15.0
# What Kubernetes can name a namespace (RFC 1123 label); jobs of any other are none of its business.
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

_log = get_logger("kubernetes")


async def configuration(kubeconfig: Path | None) -> client.Configuration:
    """How to reach the API server. Raises ConfigException, or OSError."""
    found = client.Configuration()
    if kubeconfig is not None:
        await config.load_kube_config(config_file=str(kubeconfig), client_configuration=found)
    else:
        load: Any = config.load_incluster_config
        load(client_configuration=found)
    return found


class NamespaceController:
    """Runs in each replica, acts in one."""

    def __init__(
        self,
        *,
        store: JobStore,
        configuration: client.Configuration,
        acting: Callable[[], bool],
        statistics: KubernetesStatistics,
        reconcile_s: float = RECONCILE_S,
    ) -> None:
        """`acting()` says whether this replica is the one that deletes."""
        self._store = store
        self._configuration = configuration
        self._acting = acting
        self._statistics = statistics
        self._reconcile_s = reconcile_s

    async def run(self) -> None:
        """Serve until cancelled; the API server may come and go."""
        pause_s = _RETRY_S[0]
        async with client.ApiClient(configuration=self._configuration) as api:
            core = client.CoreV1Api(api)
            while True:
                if not self._acting():
                    await asyncio.sleep(_ACTING_POLL_S)
                    continue
                try:
                    revision = await self._reconcile(core)
                    await self._watch(core, revision)
                    pause_s = _RETRY_S[0]
                except Exception as error:  # whatever an API server says, jobs go on firing
                    if isinstance(error, ApiException) and error.status == 410:
                        continue  # the watch was too old: compare anew
                    self._statistics.errors += 1
                    _log.warning("namespace_controller_failed", error=str(error)[:300], next_try_s=pause_s)
                    await asyncio.sleep(pause_s)
                    pause_s = min(_RETRY_S[1], pause_s * 2)

    async def _reconcile(self, core: Any) -> str:
        """Compare the namespaces that have jobs with those that exist. Returns where a watch goes on."""
        listed = await core.list_namespace(_request_timeout=_REQUEST_TIMEOUT_S)
        existing = {namespace.metadata.name for namespace in listed.items}
        for name in sorted(await self._store.namespaces(timeout_s=_STORE_TIMEOUT_S) - existing):
            await self._delete_if_gone(core, name)
        self._statistics.reconciliations += 1
        revision: str = listed.metadata.resource_version
        return revision

    async def _watch(self, core: Any, revision: str) -> None:
        """Act on deletions until it is time to compare everything again, or another replica acts."""
        events: Any = watch.Watch()
        try:
            async for event in events.stream(
                core.list_namespace,
                resource_version=revision,
                timeout_seconds=max(1, int(self._reconcile_s)),
                _request_timeout=self._reconcile_s + _REQUEST_TIMEOUT_S,
            ):
                if not self._acting():
                    return
                if event["type"] == "DELETED":
                    await self._delete_if_gone(core, event["object"].metadata.name)
        finally:
            await events.close()

    async def _delete_if_gone(self, core: Any, name: str) -> None:
        if not _LABEL.fullmatch(name) or not await _is_gone(core.read_namespace, name):
            return
        for prefix in namespace_prefixes(name):
            count = await self._store.delete_prefix(prefix, timeout_s=_STORE_TIMEOUT_S)
            self._statistics.deleted_jobs += count
            _log.info("namespace_jobs_deleted", namespace=name, kind=prefix.partition("||")[0], jobs=count)


async def _is_gone(read: Callable[..., Awaitable[object]], name: str) -> bool:
    try:
        await read(name, _request_timeout=_REQUEST_TIMEOUT_S)
    except ApiException as error:
        if error.status == 404:
            return True
        raise
    return False
