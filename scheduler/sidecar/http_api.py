"""The HTTP Jobs API and its neighbours (sidecar-and-jobs-api.md 1): routes, proto3-JSON bodies, error bodies."""

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote_plus

from aiohttp import web
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value

from scheduler._pb.dapr.proto.runtime.v1 import jobs_pb2
from scheduler.http2.grpc import Status
from scheduler.sidecar.jobs_api import ApiError, JobsApi

_HTTP_STATUS = {
    Status.INVALID_ARGUMENT: 400,
    Status.FAILED_PRECONDITION: 400,
    Status.OUT_OF_RANGE: 400,
    Status.UNAUTHENTICATED: 401,
    Status.PERMISSION_DENIED: 403,
    Status.NOT_FOUND: 404,
    Status.CANCELLED: 408,
    Status.ALREADY_EXISTS: 409,
    Status.ABORTED: 409,
    Status.RESOURCE_EXHAUSTED: 429,
    Status.UNIMPLEMENTED: 501,
    Status.UNAVAILABLE: 503,
    Status.DEADLINE_EXCEEDED: 504,
}
_FIELDS = {
    "schedule": "schedule",
    "dueTime": "dueTime",
    "due_time": "dueTime",
    "repeats": "repeats",
    "ttl": "ttl",
    "failurePolicy": "failurePolicy",
    "failure_policy": "failurePolicy",
    "name": "name",
}
_TOKEN_EXEMPT = frozenset({"/v1.0/healthz", "/v1.0/healthz/outbound"})

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Malformed(Exception):
    """A body that is no job."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(names) != len(set(names)):
        raise _Malformed("a field is given twice")
    return dict(pairs)


def parse_job(body: bytes) -> tuple[jobs_pb2.Job, bool]:
    """A POST body and its overwrite flag. Raises _Malformed."""
    if not body:
        return jobs_pb2.Job(), False
    try:
        fields = json.loads(body, object_pairs_hook=_pairs)
    except (ValueError, RecursionError) as error:
        raise _Malformed(str(error)) from error
    if not isinstance(fields, dict):
        raise _Malformed(f"a job is a JSON object, found {type(fields).__name__}")
    overwrite = fields.get("overwrite")
    if overwrite is not None and not isinstance(overwrite, bool):
        raise _Malformed(f"overwrite is {overwrite!r}, allowed are true and false")
    known: dict[str, Any] = {}
    for name, value in fields.items():
        field = _FIELDS.get(name)
        if field is not None:
            if field in known:
                raise _Malformed(f"{field} is given twice")
            known[field] = value
    _check_policy(known.get("failurePolicy"))
    job = jobs_pb2.Job()
    try:
        json_format.ParseDict(known, job, ignore_unknown_fields=True)
        if "data" in fields:
            job.data.Pack(json_format.ParseDict(fields["data"], Value()))
    except (json_format.ParseError, RecursionError) as error:
        raise _Malformed(str(error)) from error
    return job, bool(overwrite)


def _json(status: int, body: Any) -> web.Response:
    return web.Response(status=status, text=json.dumps(body), content_type="application/json")


def _generic(status: int, code: str, message: str) -> web.Response:
    return _json(status, {"errorCode": code, "message": message})


def _api_error(error: ApiError) -> web.Response:
    detail = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "domain": "dapr.io",
        "metadata": error.metadata,
        "reason": error.reason,
    }
    body = {"errorCode": error.reason, "message": error.message, "details": [detail]}
    return _json(_HTTP_STATUS.get(error.status, 500), body)


def _check_policy(policy: Any) -> None:
    """A failure policy is an object, and so are its members; the JSON parser would let a text pass."""
    if policy is None:
        return
    if not isinstance(policy, dict):
        raise _Malformed(f"failurePolicy is an object, found {policy!r}")
    for name in ("drop", "constant"):
        if not isinstance(policy.get(name, {}), dict | None):
            raise _Malformed(f"failurePolicy.{name} is an object, found {policy[name]!r}")


class HttpApi:
    """Builds the aiohttp application."""

    def __init__(
        self,
        *,
        jobs: JobsApi,
        app_id: str,
        max_body_bytes: int,
        token: str,
        not_ready: Callable[[], list[str]],
        metadata: Callable[[], dict[str, Any]],
        set_metadata: Callable[[str, str], None],
        shutdown: Callable[[], None],
    ) -> None:
        """`not_ready()` names what a health check waits for; `shutdown()` begins a graceful stop."""
        self._jobs = jobs
        self._app_id = app_id
        self._max_body_bytes = max_body_bytes
        self._token = token
        self._not_ready = not_ready
        self._metadata = metadata
        self._set_metadata = set_metadata
        self._shutdown = shutdown

    def application(self) -> web.Application:
        """All routes."""
        application = web.Application(client_max_size=self._max_body_bytes, middlewares=[self._guard])
        routes = application.router
        for version in ("v1.0", "v1.0-alpha1"):
            for slash in ("", "/"):
                path = f"/{version}/jobs/{{name:[^/]+}}{slash}"
                routes.add_post(path, self._schedule)
                routes.add_get(path, self._get, allow_head=False)
                routes.add_delete(path, self._delete)
        routes.add_get("/v1.0/healthz", self._healthz)
        routes.add_get("/v1.0/healthz/outbound", self._outbound)
        routes.add_get("/v1.0/metadata", self._get_metadata)
        routes.add_put("/v1.0/metadata/{key}", self._put_metadata)
        routes.add_post("/v1.0/shutdown", self._stop)
        return application

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._token and request.path not in _TOKEN_EXEMPT and request.headers.get("dapr-api-token") != self._token:
            return web.Response(status=401, text="invalid api token")
        raw = request.raw_path.partition("?")[0]
        if _BAD_ESCAPE.search(raw):
            return web.Response(status=400, text="400 Bad Request")
        try:
            if any(segment in {".", ".."} for segment in raw.split("/")):
                raise web.HTTPNotFound  # noqa: TRY301 - answered like every unknown path
            return await handler(request)
        except ApiError as error:
            return _api_error(error)
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
            text = "failed getting app id either from the URL path or the header dapr-app-id"
            return _generic(404, "ERR_DIRECT_INVOKE", text)

    def _name(self, request: web.Request) -> str:
        # The segment is matched in its escaped form and decoded like a query: + is a space.
        return unquote_plus(request.raw_path.partition("?")[0].rstrip("/").rpartition("/")[2])

    async def _schedule(self, request: web.Request) -> web.Response:
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return _generic(400, "ERR_BODY_READ", "failed to read request body: stream too large")
        try:
            job, overwrite = parse_job(body)
        except _Malformed as error:
            return _generic(400, "ERR_MALFORMED_REQUEST", f"failed deserializing HTTP body: {error}")
        if job.name:
            error_text = "Set the job name in the url only"
            raise self._jobs.error(Status.INVALID_ARGUMENT, "DAPR_SCHEDULER_JOB_NAME", error_text)
        job.name = self._name(request).strip()
        await self._jobs.schedule(job, overwrite=overwrite)
        return web.Response(status=204)

    async def _get(self, request: web.Request) -> web.Response:
        job = await self._jobs.get(self._name(request))
        try:
            body = json_format.MessageToDict(job)
        except (TypeError, ValueError) as error:
            return _generic(500, "ERR_INTERNAL", f"failed to encode response as JSON: {error}")
        return _json(200, body)

    async def _delete(self, request: web.Request) -> web.Response:
        await self._jobs.delete(self._name(request))
        return web.Response(status=204)

    async def _healthz(self, request: web.Request) -> web.Response:
        if request.query.get("appid", self._app_id) != self._app_id:
            return _generic(500, "ERR_HEALTH_APPID_NOT_MATCH", "dapr app-id does not match")
        missing = self._not_ready()
        if missing:
            return _generic(500, "ERR_HEALTH_NOT_READY", f"dapr is not ready: [{' '.join(missing)}]")
        return web.Response(status=204)

    async def _outbound(self, _request: web.Request) -> web.Response:
        return web.Response(status=204)

    async def _get_metadata(self, _request: web.Request) -> web.Response:
        return _json(200, self._metadata())

    async def _put_metadata(self, request: web.Request) -> web.Response:
        self._set_metadata(request.match_info["key"], (await request.read()).decode("utf-8", "replace"))
        return web.Response(status=204)

    async def _stop(self, _request: web.Request) -> web.Response:
        self._shutdown()
        return web.Response(status=204)
