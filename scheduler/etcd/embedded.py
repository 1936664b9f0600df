"""The embedded default: a real etcd as a child process, on loopback, with a data directory of its own (design 10).

It is started again if it dies, is stopped with us, and never outlives us. For production point at an etcd cluster instead.
"""

import asyncio
import contextlib
import ctypes
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from scheduler.config import ServeSettings
from scheduler.etcd.binary import EtcdBinary, find_etcd
from scheduler.logs import get_logger

_READY_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 8.0
_RESTART_PAUSE_S = (0.5, 10.0)
_METRICS_TIMEOUT_S = 2.0
_PR_SET_PDEATHSIG = 1

_log = get_logger("etcd.embedded")


def free_port() -> int:
    """A loopback port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def die_with_parent() -> None:
    """Runs in a child before exec: the kernel ends it when we are gone, however we went."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class EmbeddedEtcd:
    """One single-member etcd."""

    def __init__(
        self,
        *,
        binary: EtcdBinary,
        data_dir: Path,
        client_port: int = 0,
        max_txn_ops: int = 128,
        max_request_bytes: int = 1_572_864,
        arguments: Sequence[str] = (),
    ) -> None:
        """`client_port` 0: any free one; `arguments` are etcd's own flags, and outdo ours. The data directory is made if it is not there, and never emptied."""
        self._binary = binary
        self._data_dir = data_dir
        self._given_port = client_port
        self._client_port, self._peer_port = client_port or free_port(), free_port()
        self._max_txn_ops = max_txn_ops
        self._max_request_bytes = max_request_bytes
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._stopping = False

    @classmethod
    def of(cls, settings: ServeSettings) -> "EmbeddedEtcd":
        """As `scheduler serve` is told to run it. Raises EtcdBinaryMissing."""
        binary = find_etcd()
        if binary.warning:
            _log.warning("etcd_version", problem=binary.warning)
        return cls(
            binary=binary,
            data_dir=settings.etcd_data_dir,
            client_port=settings.etcd_client_port,
            max_txn_ops=settings.etcd_max_txn_ops,
            max_request_bytes=settings.etcd_max_request_bytes,
            arguments=settings.etcd_arguments,
        )

    @property
    def endpoint(self) -> str:
        """Where clients find it, once it has been started."""
        return f"http://127.0.0.1:{self._client_port}"

    @property
    def pid(self) -> int | None:
        """The child's process id while it runs."""
        return self._process.pid if self._process else None

    async def start(self, stop: asyncio.Event | None = None) -> bool:
        """Start it, again and again until it takes connections; False: `stop` was set before. Without `stop`, raises RuntimeError with its last words."""
        self._data_dir.mkdir(parents=True, exist_ok=True)
        pause_s = _RESTART_PAUSE_S[0]
        while (problem := await self._try_start()) is not None:
            if stop is None:
                raise RuntimeError(f"etcd did not start: {problem}")
            _log.error("etcd_not_started", endpoint=self.endpoint, problem=problem, next_try_s=pause_s)
            # Of our own choice they may be somebody else's by now.
            self._client_port, self._peer_port = self._given_port or free_port(), free_port()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await stop.wait()
            if stop.is_set():
                return False
            pause_s = min(_RESTART_PAUSE_S[1], pause_s * 2)
        self._supervisor = asyncio.get_running_loop().create_task(self._supervise(), name="embedded etcd")
        _log.info("etcd_started", endpoint=self.endpoint, data_dir=str(self._data_dir), pid=self.pid)
        return True

    async def _try_start(self) -> str | None:
        """None: it runs; else what is wrong. A port that somebody else listens on is never taken for ours."""
        if await self._answers():
            return f"port {self._client_port} is taken by another process"
        await self._spawn()
        process = self._process
        assert process is not None
        end = asyncio.get_running_loop().time() + _READY_TIMEOUT_S
        while not await self._answers():
            if process.returncode is not None:
                return self._last_words()
            if asyncio.get_running_loop().time() > end:
                process.kill()
                await process.wait()
                return f"no answer within {_READY_TIMEOUT_S:.0f} s; {self._last_words()}"
            await asyncio.sleep(0.05)
        return None

    async def _spawn(self) -> None:
        client, peer = self.endpoint, f"http://127.0.0.1:{self._peer_port}"
        with (self._data_dir / "etcd.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                self._binary.path,
                "--name=embedded",
                f"--data-dir={self._data_dir / 'etcd'}",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=embedded={peer}",
                "--auto-compaction-mode=periodic",
                "--auto-compaction-retention=10m",
                f"--quota-backend-bytes={8 << 30}",
                f"--max-txn-ops={self._max_txn_ops}",
                f"--max-request-bytes={self._max_request_bytes}",
                "--snapshot-count=10000",
                "--logger=zap",
                "--log-level=warn",
                *self._arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
            )

    async def _answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._client_port)
        except OSError:
            return False
        writer.close()
        return True

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            return (self._data_dir / "etcd.log").read_text(errors="replace")[-800:]
        return ""

    async def _supervise(self) -> None:
        while True:
            process = self._process
            assert process is not None
            code = await process.wait()
            if self._stopping:
                return
            _log.error("etcd_died", exit_code=code, hint=self._last_words()[-300:])
            await asyncio.sleep(_RESTART_PAUSE_S[0])
            await self._spawn()

    async def metrics(self) -> bytes:
        """The child's own metrics, those named etcd_ (the rest would collide with ours); empty while it does not answer."""
        timeout = aiohttp.ClientTimeout(total=_METRICS_TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"{self.endpoint}/metrics") as answer,
            ):
                lines = (await answer.read()).splitlines(keepends=True)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return b""
        return b"".join(line for line in lines if line.startswith((b"etcd_", b"# HELP etcd_", b"# TYPE etcd_")))

    async def stop(self) -> None:
        """Stop it, gently first."""
        self._stopping = True
        process = self._process
        if process is not None and process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(_STOP_TIMEOUT_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
