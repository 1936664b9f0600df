"""Which scheduler a command talks to, and for which app: the options, the connection, and errors as one line that says what to do."""

import asyncio
import functools
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from scheduler.cli.output import Exit, fail, printable
from scheduler.http2.client import Channel
from scheduler.http2.grpc import RpcError, Status

_T = TypeVar("_T")
_PATH = click.Path(path_type=Path)


class Endpoint(NamedTuple):
    """Which scheduler to ask, and how."""

    address: str
    tls_ca_file: Path | None
    tls_cert_file: Path | None
    tls_key_file: Path | None
    tls_server_name: str | None
    tls_server_identity: str | None = None

    def connect(self, address: str) -> Channel:
        """Raises OSError or ValueError."""
        if self.tls_ca_file is None and self.tls_cert_file is None:
            return Channel(address)
        from scheduler.identity.certificates import server_problem
        from scheduler.identity.contexts import ClientTls, read_material

        material = read_material(self.tls_cert_file, self.tls_key_file, self.tls_ca_file)
        wanted = self.tls_server_identity
        return Channel(
            address,
            tls=ClientTls(material, check_hostname=wanted is None),
            server_hostname=self.tls_server_name,
            check_server=(lambda certificate: server_problem(certificate, wanted)) if wanted else None,
        )


def connection_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say whom to ask; the command gets `endpoint`."""

    @functools.wraps(function)
    def command(**values: Any) -> Any:
        endpoint = Endpoint(**{name: values.pop(name) for name in Endpoint._fields})
        return function(endpoint=endpoint, **values)

    wrapped: Callable[..., Any] = command
    for option in (
        click.option(
            "--tls-server-identity",
            default=None,
            help="SPIFFE identity that the scheduler's certificate must have, where it names no host (Sentry's do not).",
        ),
        click.option("--tls-server-name", default=None, help="Name in the scheduler's certificate, if not its host."),
        click.option("--tls-key-file", type=_PATH, default=None, help="Its key."),
        click.option("--tls-cert-file", type=_PATH, default=None, help="Our certificate, for mutual TLS."),
        click.option(
            "--tls-ca-file", type=_PATH, default=None, help="CA of the scheduler's certificate; turns TLS on."
        ),
        click.option("--address", default="127.0.0.1:50006", show_default=True, help="A scheduler's host:port."),
    ):
        wrapped = option(wrapped)
    return wrapped


def endpoint_options(function: Callable[..., Any], *, app_id: str | None = None) -> Callable[..., Any]:
    """Those, and for whom: the command also gets `namespace` and `app_id` (required where there is no default)."""
    wrapped = connection_options(function)
    for option in (
        click.option("--namespace", default="default", show_default=True, help="Namespace of the app."),
        click.option(
            "--app-id",
            default=app_id,
            required=app_id is None,
            show_default=app_id is not None,
            help="The app that the jobs belong to.",
        ),
    ):
        wrapped = option(wrapped)
    return wrapped


_EXITS = {
    Status.UNAVAILABLE: Exit.UNREACHABLE,
    Status.DEADLINE_EXCEEDED: Exit.UNREACHABLE,
    Status.NOT_FOUND: Exit.NOT_FOUND,
    Status.PERMISSION_DENIED: Exit.DENIED,
    Status.UNAUTHENTICATED: Exit.DENIED,
}


def run_or_explain(endpoint: Endpoint, work: Coroutine[Any, Any, _T]) -> _T:
    """Errors become a line that says what to do, and an exit code."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    except OSError as error:
        fail(f"the --tls-... files: {error}")
    except ValueError as error:
        fail(f"--address: {error}")
    except RpcError as error:
        fail(explain(error) + _hint(endpoint, error), _EXITS.get(error.status, Exit.FAILED))


def explain(error: RpcError) -> str:
    """What a server refused: its words, and which field they are about where it says so."""
    from google.protobuf.message import DecodeError
    from google.rpc import error_details_pb2, status_pb2

    fields = []
    try:
        for detail in status_pb2.Status.FromString(error.details).details:
            bad = error_details_pb2.BadRequest()
            if detail.Unpack(bad):
                fields += [one.field.removeprefix("job.") for one in bad.field_violations]
    except DecodeError:
        pass
    return printable(f"{', '.join(fields)}: {error.message}" if fields else f"{error.message} ({error.status.name})")


def _hint(endpoint: Endpoint, error: RpcError) -> str:
    """What to do about it, on a line of its own."""
    if error.status in {Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED}:
        from scheduler.cli.diagnosis import diagnose

        return "\n" + asyncio.run(diagnose(endpoint, error))
    if error.status is Status.UNIMPLEMENTED:
        return f"\nThe server at {endpoint.address} knows no such call: it is older than this command, or no scheduler of this kind."
    if error.status is Status.PERMISSION_DENIED and "identity does not match" in error.message:
        return "\n--tls-cert-file must be the certificate of --app-id in --namespace."
    return ""
