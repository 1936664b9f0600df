"""`scheduler dev`: a whole cluster on this machine, with an example app, from nothing; stopped in order, leaving nothing behind.

A real etcd as a child process, replicas, one sidecar, and the how-to's backup app, each a process of its own on a free port.
"""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from pathlib import Path

import click

from scheduler.etcd.binary import find_etcd
from scheduler.etcd.embedded import EmbeddedEtcd, die_with_parent, free_port

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "backup" / "app.py"
_STOP_TIMEOUT_S = 12.0


def _say(text: str) -> None:
    click.echo(f"dev: {text}")


class _Child:
    """One child process; its log goes to a file, or line by line to the terminal."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.process = process

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(_STOP_TIMEOUT_S):
                    await self.process.wait()
            except TimeoutError:
                self.process.kill()
                await self.process.wait()
        _say(f"stopped {self.name} (exit {self.process.returncode})")


async def _start(name: str, *command: str, log: Path | None, env: dict[str, str] | None = None) -> _Child:
    target = log.open("ab") if log is not None else asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=target,
        stderr=target if log is not None else asyncio.subprocess.STDOUT,
        env={**os.environ, **(env or {})},
        preexec_fn=die_with_parent,
        start_new_session=True,
    )
    return _Child(name, process)


async def run(*, replicas: int, data_dir: Path | None, exit_after_summary: bool) -> int:
    """Run until Ctrl-C or SIGTERM, or until the example's summary. Returns the exit code."""
    with contextlib.ExitStack() as stack:
        if data_dir is None:
            data_dir = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="scheduler-dev-", ignore_cleanup_errors=True))
            )
        data_dir.mkdir(parents=True, exist_ok=True)
        return await _run(replicas, data_dir, exit_after_summary=exit_after_summary)


async def _run(replicas: int, data_dir: Path, *, exit_after_summary: bool) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    binary = find_etcd()
    version = ".".join(map(str, binary.version))
    if binary.warning:
        _say(f"warning: {binary.warning}")
    etcd = EmbeddedEtcd(binary=binary, data_dir=data_dir)
    children: list[_Child] = []
    try:
        await etcd.start()
        _say(f"etcd {version} on {etcd.endpoint}, data in {data_dir}")
        base = [sys.executable, "-m", "scheduler"]
        addresses = []
        for index in range(replicas):
            port = free_port()
            addresses.append(f"127.0.0.1:{port}")
            name = f"replica-{index}"
            command = [*base, "serve", f"--id={name}", f"--port={port}", "--etcd-embed=false"]
            command += [f"--etcd-client-endpoints={etcd.endpoint}", f"--etcd-data-dir={data_dir / name}"]
            command += ["--healthz-port=0", "--metrics-port=0"]
            children.append(await _start(name, *command, log=data_dir / f"{name}.log"))
            _say(f"{name} on 127.0.0.1:{port}, log in {name}.log")
        app_port, http_port, grpc_port = free_port(), free_port(), free_port()
        command = [*base, "sidecar", "--app-id=backup", f"--app-port={app_port}", f"--dapr-http-port={http_port}"]
        command += [f"--dapr-grpc-port={grpc_port}", f"--scheduler-host-address={','.join(addresses)}"]
        children.append(await _start("sidecar", *command, log=data_dir / "sidecar.log"))
        _say(f"sidecar of app 'backup': HTTP Jobs API on 127.0.0.1:{http_port}, gRPC on 127.0.0.1:{grpc_port}")
        env = {"APP_PORT": str(app_port), "DAPR_HTTP_PORT": str(http_port), "PYTHONUNBUFFERED": "1"}
        if exit_after_summary:
            env["EXIT_AFTER_SUMMARY"] = "1"
        app = await _start("app", sys.executable, str(EXAMPLE), log=None, env=env)
        children.append(app)
        _say(f"example app on 127.0.0.1:{app_port}; Ctrl-C stops everything")
        return await _follow(app, children, stop, data_dir)
    finally:
        # The app first, then its sidecar, then the replicas one after the other, etcd last.
        for child in reversed(children):
            await child.stop()
        await etcd.stop()
        _say("stopped etcd")


async def _follow(app: _Child, children: list[_Child], stop: asyncio.Event, data_dir: Path) -> int:
    """Print what the app says until something ends."""
    assert app.process.stdout is not None
    stream = app.process.stdout
    stopped = asyncio.ensure_future(stop.wait())
    ends = {asyncio.ensure_future(child.process.wait()): child for child in children}
    try:
        while True:
            line = asyncio.ensure_future(stream.readline())
            await asyncio.wait({line, stopped, *ends}, return_when=asyncio.FIRST_COMPLETED)
            if line.done() and line.result():
                click.echo(f"app: {line.result().decode(errors='replace').rstrip()}")
                continue
            line.cancel()
            if stopped.done():
                _say("stopping")
                return 0
            for end, child in ends.items():
                if end.done():
                    code = end.result()
                    if child is app:
                        return code
                    log = data_dir / f"{child.name}.log"
                    _say(f"{child.name} ended unexpectedly (exit {code}); its last words:\n{log.read_text()[-2000:]}")
                    return 1
    finally:
        for future in (stopped, *ends):
            future.cancel()
