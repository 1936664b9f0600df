"""The HTTP Jobs API and its neighbours (sidecar-and-jobs-api.md 1): routes, bodies and errors. What carries the requests is `http_server`'s business."""

import hmac
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote_plus

from google.protobuf import json_format

from scheduler.http2.grpc import Status
from scheduler.logs import get_logger
from scheduler.sidecar.job_json import Malformed, parse_job
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
_TRUE = frozenset({"1", "t", "true", "y", "yes", "on"})
_TOKEN_EXEMPT = frozenset({"/v1.0/healthz", "/v1.0/healthz/outbound"})
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
JOB_PATH = re.compile(r"/v1\.0(?:-alpha1)?/jobs/([^/]+)/?")
_SET_METADATA = re.compile(r"/v1\.0/metadata/([^/]+)/?")

_log = get_logger("sidecar.http")


class Request(NamedTuple):
    """One request; header names are in lower case, `body` is None where it was larger than allowed."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | None
    public: bool = False


class Answer(NamedTuple):
    """One answer."""

    status: int
    body: bytes = b""
    content_type: str = ""


def _json(status: int, body: Any) -> Answer:
    return Answer(status, json.dumps(body).encode(), "application/json")


def _text(status: int, text: str) -> Answer:
    return Answer(status, text.encode(), "text/plain; charset=utf-8")


def _error(status: int, code: str, message: str) -> Answer:
    return _json(status, {"errorCode": code, "message": message})


def _api_error(error: ApiError) -> Answer:
    detail = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "domain": "dapr.io",
        "metadata": error.metadata,
        "reason": error.reason,
    }
    body = {"errorCode": error.reason, "message": error.message, "details": [detail]}
    return _json(_HTTP_STATUS.get(error.status, 500), body)


_NO_ROUTE = _error(404, "ERR_DIRECT_INVOKE", "failed getting app id either from the URL path or the header dapr-app-id")


def clean_path(path: str) -> str:
    """Without empty, `.` and `..` segments; a slash at the end stays."""
    if "//" not in path and "/." not in path:
        return path
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in {"", "."}:
            kept.append(segment)
    return "/" + "/".join(kept) + ("/" if kept and path.endswith("/") else "")


class HttpApi:
    """Answers requests."""

    def __init__(
        self,
        *,
        jobs: JobsApi,
        app_id: str,
        token: str,
        not_ready: Callable[[], list[str]],
        metadata: Callable[[], dict[str, Any]],
        set_metadata: Callable[[str, str], None],
        shutdown: Callable[[bool], None],
        log_calls: bool = False,
    ) -> None:
        """`not_ready()` names what a health check waits for; `shutdown(force)` begins a stop. `token` empty: nobody is asked for one."""
        self._jobs = jobs
        self._app_id = app_id
        self._token = token.encode()
        self._not_ready = not_ready
        self._metadata = metadata
        self._set_metadata = set_metadata
        self._shutdown = shutdown
        self._log_calls = log_calls

    async def answer(self, request: Request) -> Answer:
        """Never raises but for cancellation and our own faults."""
        raw, _, query = request.target.partition("?")
        if _BAD_ESCAPE.search(raw):
            return _text(400, "400 Bad Request")
        path = clean_path(raw)
        if self._token and path not in _TOKEN_EXEMPT:
            shown = request.headers.get("dapr-api-token", "").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(shown, self._token):
                return _text(401, "invalid api token")
        try:
            answer = await self._route(request, path, query)
        except ApiError as error:
            answer = _api_error(error)
        if self._log_calls:
            _log.info("api_called", method=request.method, path=path, status=answer.status)
        return answer

    async def _route(self, request: Request, path: str, query: str) -> Answer:
        if not request.public and (found := JOB_PATH.fullmatch(path)):
            # The segment is matched in its escaped form and decoded like a query: + is a space.
            return await self._job(request, unquote_plus(found[1]))
        answer = self._look(request.method, path.removesuffix("/"), query)
        if answer is None and not request.public:
            answer = self._change(request, path.removesuffix("/"))
        return answer or _NO_ROUTE

    async def _job(self, request: Request, name: str) -> Answer:
        if request.method == "POST":
            return await self._schedule(name, request.body, request.headers)
        if request.method == "GET":
            return await self._get(name)
        if request.method == "DELETE":
            await self._jobs.delete(name)
            return Answer(204)
        return _NO_ROUTE

    def _look(self, method: str, path: str, query: str) -> Answer | None:
        if method != "GET":
            return None
        if path == "/v1.0/healthz":
            return self._healthz(parse_qs(query).get("appid", [self._app_id])[0])
        if path == "/v1.0/healthz/outbound":
            return Answer(204)
        return _json(200, self._metadata()) if path == "/v1.0/metadata" else None

    def _change(self, request: Request, path: str) -> Answer | None:
        if request.method == "PUT" and (found := _SET_METADATA.fullmatch(path)):
            if request.body is None:
                return self._too_large()
            self._set_metadata(unquote_plus(found[1]), request.body.decode("utf-8", "replace"))
            return Answer(204)
        if request.method == "POST" and path == "/v1.0/shutdown":
            self._shutdown(request.headers.get("dapr-force-shutdown", "").lower() in _TRUE)
            return Answer(204)
        return None

    @staticmethod
    def _too_large() -> Answer:
        return _error(400, "ERR_BODY_READ", "failed to read request body: stream too large")

    async def _schedule(self, name: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        if body is None:
            return self._too_large()
        try:
            job, overwrite = parse_job(body)
        except Malformed as error:
            return _error(400, "ERR_MALFORMED_REQUEST", f"failed deserializing HTTP body: {error}")
        if job.name:
            text = "Set the job name in the url only"
            raise self._jobs.error(Status.INVALID_ARGUMENT, "DAPR_SCHEDULER_JOB_NAME", text)
        try:
            job.name = name.strip()
        except ValueError as error:
            return _error(400, "ERR_MALFORMED_REQUEST", f"the job's name is no text: {error}")
        await self._jobs.schedule(job, overwrite=overwrite, headers=headers)
        return Answer(204)

    async def _get(self, name: str) -> Answer:
        job = await self._jobs.get(name)
        try:
            body = json_format.MessageToDict(job)
        except (TypeError, ValueError) as error:
            return _error(500, "ERR_INTERNAL", f"failed to encode response as JSON: {error}")
        return _json(200, body)

    def _healthz(self, app_id: str) -> Answer:
        if app_id != self._app_id:
            return _error(500, "ERR_HEALTH_APPID_NOT_MATCH", "dapr app-id does not match")
        if missing := self._not_ready():
            return _error(500, "ERR_HEALTH_NOT_READY", f"dapr is not ready: [{' '.join(missing)}]")
        return Answer(204)
