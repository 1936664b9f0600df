"""A thin Kubernetes API for helm: keeps objects, refuses what Kubernetes would not let change; nothing runs in it."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Object = dict[str, Any]

_RESOURCES: dict[str, list[tuple[str, str, bool]]] = {
    "v1": [
        ("namespaces", "Namespace", False),
        ("secrets", "Secret", True),
        ("services", "Service", True),
        ("serviceaccounts", "ServiceAccount", True),
        ("configmaps", "ConfigMap", True),
        ("pods", "Pod", True),
        ("persistentvolumeclaims", "PersistentVolumeClaim", True),
    ],
    "apps/v1": [("statefulsets", "StatefulSet", True), ("deployments", "Deployment", True)],
    "batch/v1": [("cronjobs", "CronJob", True)],
    "policy/v1": [("poddisruptionbudgets", "PodDisruptionBudget", True)],
    "networking.k8s.io/v1": [("networkpolicies", "NetworkPolicy", True)],
}
_IMMUTABLE = {
    "statefulsets": ("selector", "serviceName", "volumeClaimTemplates", "podManagementPolicy"),
    "deployments": ("selector",),
}


def _fields(data: bytes) -> list[tuple[int, Any]]:
    """A protobuf message's fields by number: bytes or integers."""

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    found: list[tuple[int, Any]] = []
    at = 0
    while at < len(data):
        number, kind = divmod(varint(), 8)
        if kind == 2:
            size = varint()
            found.append((number, data[at : at + size]))
            at += size
        else:
            assert kind == 0, kind
            found.append((number, varint()))
    return found


def _secret(body: bytes) -> Object:
    """helm's release Secrets come as protobuf: the envelope, then metadata (1), data (2), type (3)."""
    import base64

    (raw,) = [value for number, value in _fields(body[4:]) if number == 2]
    secret: Object = {"apiVersion": "v1", "kind": "Secret", "metadata": {"labels": {}}, "data": {}}
    for number, value in _fields(raw):
        if number == 1:
            for inner, text in _fields(value):
                if inner in {1, 3}:
                    secret["metadata"]["name" if inner == 1 else "namespace"] = text.decode()
                elif inner == 11:
                    key, label = (part.decode() for _, part in _fields(text))
                    secret["metadata"]["labels"][key] = label
        elif number == 2:
            entry = dict(_fields(value))
            secret["data"][entry[1].decode()] = base64.b64encode(entry[2]).decode()
        elif number == 3:
            secret["type"] = value.decode()
    return secret


def _merged(old: Any, patch: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(patch, dict):
        return patch
    result = dict(old)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif not key.startswith("$"):
            result[key] = _merged(result.get(key), value)
    return result


class KubernetesApi:
    """Serves on a free port of loopback until `close`."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.refused: list[str] = []
        self._revision = 0
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def log_message(self, *_: Any) -> None:
                pass

            def _handle(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                code, body = api.handle(self.command, self.path, self.rfile.read(size))
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
                self.wfile.flush()

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815 - the base class's names

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def get(self, plural: str, name: str, namespace: str = "space") -> Object:
        return self.objects[plural, namespace, name]

    def handle(self, method: str, url: str, body: bytes) -> tuple[int, Any]:
        parts = urlsplit(url)
        path = parts.path.strip("/").split("/")
        if discovery := self._discover("/".join(path)):
            return 200, discovery[0]
        group, rest = ("v1", path[2:]) if path[0] == "api" else ("/".join(path[1:3]), path[3:])
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        plural, name = rest[0], rest[1] if len(rest) > 1 else ""
        if not any(plural == one for one, _, _ in _RESOURCES.get(group, [])):
            return self._status(404, f"no {plural} in {group}")
        given = (_secret(body) if body.startswith(b"k8s\0") else json.loads(body)) if body else {}
        if method == "POST":
            name = given["metadata"]["name"]
            if (plural, namespace, name) in self.objects:
                return self._status(409, f'{plural} "{name}" already exists', "AlreadyExists")
            return 201, self._keep((plural, namespace, name), given)
        if method == "GET" and not name:
            return 200, self._list(plural, namespace, parse_qs(parts.query).get("labelSelector", [""])[0])
        old = self.objects.get((plural, namespace, name))
        if old is None and method != "PATCH":
            return self._status(404, f'{plural} "{name}" not found', "NotFound")
        if method == "GET":
            return 200, old
        if method == "DELETE":
            return 200, self.objects.pop((plural, namespace, name))
        new = _merged(old or {}, given) if method == "PATCH" else given
        for field in _IMMUTABLE.get(plural, ()) if old else ():
            if old["spec"].get(field) != new["spec"].get(field):
                self.refused.append(f"{plural}/{name}: {field}")
                return self._status(422, f"spec.{field}: field is immutable", "Invalid")
        return 200, self._keep((plural, namespace, name), new)

    def _keep(self, key: tuple[str, str, str], given: Object) -> Object:
        self._revision += 1
        given["metadata"].update(resourceVersion=str(self._revision), uid=f"{'-'.join(key)}", namespace=key[1])
        self.objects[key] = given
        return given

    def _list(self, plural: str, namespace: str, selector: str) -> Object:
        wanted = dict(one.split("=", 1) for one in selector.split(",") if "=" in one and "!=" not in one)
        kind = next(kind for resources in _RESOURCES.values() for one, kind, _ in resources if one == plural)
        items = [
            one
            for (kept, space, _), one in self.objects.items()
            if kept == plural and space == namespace and wanted.items() <= one["metadata"].get("labels", {}).items()
        ]
        version = next(
            version for version, resources in _RESOURCES.items() if any(one == plural for one, _, _ in resources)
        )
        return {"apiVersion": version, "kind": f"{kind}List", "metadata": {"resourceVersion": "1"}, "items": items}

    @staticmethod
    def _status(code: int, message: str, reason: str = "") -> tuple[int, Object]:
        return code, {
            "apiVersion": "v1",
            "kind": "Status",
            "status": "Failure",
            "code": code,
            "reason": reason,
            "message": message,
        }

    @staticmethod
    def _discover(path: str) -> list[Any]:
        groups = [version.split("/") for version in _RESOURCES if "/" in version]
        match path:
            case "version":
                return [{"major": "1", "minor": "34", "gitVersion": "v1.34.0"}]
            case "api":
                return [{"kind": "APIVersions", "versions": ["v1"]}]
            case "apis":
                listed = [
                    {"name": group, "versions": [preferred], "preferredVersion": preferred}
                    for group, version in groups
                    for preferred in [{"groupVersion": f"{group}/{version}", "version": version}]
                ]
                return [{"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}]
            case "openapi/v2":
                return [b""]
            case "openapi/v3":
                return [{"paths": {}}]
        version = path.removeprefix("api/") if path == "api/v1" else path.removeprefix("apis/")
        if version in _RESOURCES:
            verbs = ["get", "list", "create", "update", "patch", "delete", "watch"]
            resources = [
                {"name": plural, "singularName": kind.lower(), "kind": kind, "namespaced": namespaced, "verbs": verbs}
                for plural, kind, namespaced in _RESOURCES[version]
            ]
            return [{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}]
        return []
