"""The HTTP endpoints of a process for its operators: health on one port, metrics on another."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, choose_encoder, generate_latest

_SLICE_S = 0.002

Check = Callable[[], str | None]
"""None: all is well; else what is not."""


class Endpoints:
    """Serves until `close`."""

    def __init__(self) -> None:
        """Nothing is open before `serve_*`."""
        self._runners: list[web.AppRunner] = []

    async def serve_health(self, host: str, port: int, *, live: Mapping[str, Check], ready: Mapping[str, Check]) -> int:
        """/healthz (200 or 503, empty: the reference's), /livez and /readyz with reasons. Returns the bound port."""

        async def healthz(_request: web.Request) -> web.Response:
            return web.Response(status=503 if _problems(ready) else 200)

        async def readyz(_request: web.Request) -> web.Response:
            return _report(_problems(ready))

        async def livez(_request: web.Request) -> web.Response:
            return _report(_problems(live))

        application = web.Application()
        application.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/livez", livez)])
        return await self._serve(application, host, port)

    async def serve_metrics(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        *,
        more: Callable[[], Awaitable[bytes]] | None = None,
        exemplars: bool = False,
    ) -> int:
        """The exposition on every path, with what `more()` gives behind it. Returns the bound port.

        `exemplars`: there may be some, so OpenMetrics is given to whoever asks for it; not with `more`, which is none.
        """

        async def metrics(request: web.Request) -> web.Response:
            if exemplars and more is None:
                encode, content_type = choose_encoder(request.headers.get("Accept", ""))
                return web.Response(body=await _encoded(registry, encode), headers={"Content-Type": content_type})
            body = await _encoded(registry, generate_latest) + (await more() if more else b"")
            return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

        application = web.Application()
        application.add_routes([web.get("/{path:.*}", metrics)])
        return await self._serve(application, host, port)

    async def _serve(self, application: web.Application, host: str, port: int) -> int:
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, host, port)
        await site.start()
        bound: int = runner.addresses[0][1]
        return bound

    async def close(self) -> None:
        """Close all endpoints."""
        runners, self._runners = self._runners, []
        for runner in runners:
            await runner.cleanup()


class _Families:
    """Some of a registry's families, as encoders ask for them."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


async def _encoded(registry: CollectorRegistry, encode: Callable[[Any], bytes]) -> bytes:
    """A registry's exposition; other work of the loop gets its turns."""
    loop = asyncio.get_running_loop()
    parts: list[bytes] = []
    until_s = loop.time() + _SLICE_S
    for family in registry.collect():
        parts.append(encode(_Families([family])))
        if loop.time() > until_s:
            await asyncio.sleep(0)
            until_s = loop.time() + _SLICE_S
    end = b"# EOF\n" if parts and parts[-1].endswith(b"# EOF\n") else b""
    return b"".join(part.removesuffix(end) for part in parts) + end


def _problems(checks: Mapping[str, Check]) -> list[str]:
    return [f"{name}: {problem}" for name, check in checks.items() if (problem := check()) is not None]


def _report(problems: list[str]) -> web.Response:
    return web.Response(status=503 if problems else 200, text="\n".join(problems or ["ok"]) + "\n")
