"""Settings of each command: frozen, checked once, units in the names. The flags that fill them are in cli/."""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

_OPERATOR = re.compile(r"\*|spiffe://[A-Za-z0-9._*-]+/ns(/[A-Za-z0-9._*-]+){2}")


class ConfigError(Exception):
    """A setting that cannot be: which flag, what was found, what is allowed."""


def is_loopback(host: str) -> bool:
    """Whether a listen address is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def require_loopback(flag: str, host: str, *, allow_insecure: bool) -> None:
    """Plaintext off this machine must be asked for in so many words. Raises ConfigError."""
    if not allow_insecure and not is_loopback(host):
        shown = host or "all addresses"
        raise ConfigError(
            f"{flag} is {shown!r}, and without TLS only a loopback address is served: use 127.0.0.1, or set "
            "--tls-cert-file, --tls-key-file and --tls-ca-file, or accept plaintext on the network with --allow-insecure"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """One scheduler replica."""

    id: str = "dapr-scheduler-server-0"
    processes: int = 1
    listen_address: str = "127.0.0.1"
    port: int = 50006
    override_broadcast_host_port: str = ""
    healthz_listen_address: str = "127.0.0.1"
    healthz_port: int = 8080
    enable_metrics: bool = True
    metrics_listen_address: str = "127.0.0.1"
    metrics_port: int = 9090
    metrics_dapr_names: bool = True
    etcd_embed: bool = True
    etcd_client_endpoints: tuple[str, ...] = ()
    etcd_client_username: str = ""
    etcd_client_password_file: Path | None = None
    etcd_ca_file: Path | None = None
    etcd_cert_file: Path | None = None
    etcd_key_file: Path | None = None
    etcd_data_dir: Path = Path("data")
    etcd_client_port: int = 2379
    etcd_max_txn_ops: int = 128
    etcd_max_request_bytes: int = 1_572_864
    etcd_arguments: tuple[str, ...] = ()
    etcd_root: str = "/scheduler"
    partitions: int = 128
    lease_ttl_s: int = 5
    max_connections: int = 10_000
    max_message_bytes: int | None = None
    in_flight_per_stream: int = 8_192
    ack_timeout_s: float = 0.0
    commit_window: int = 16_384
    drain_timeout_s: float = 8.0
    mode: str = "standalone"
    kubeconfig: Path | None = None
    namespace: str = "default"
    tls_enabled: bool = False
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    tls_ca_file: Path | None = None
    sentry_address: str = ""
    sentry_token_file: Path = Path("/var/run/secrets/dapr.io/sentrytoken/token")
    sentry_identity: str = "dapr-scheduler"
    trust_anchors_file: Path = Path("/var/run/secrets/dapr.io/tls/ca.crt")
    trust_domain: str = "localhost"
    app_trust_domains: tuple[str, ...] = ("public",)
    admin_identities: tuple[str, ...] = ()
    allow_insecure: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        if self.etcd_embed and self.etcd_client_endpoints:
            raise ConfigError("cannot use --etcd-client-endpoints with --etcd-embed")
        if self.etcd_embed and self.etcd_client_username:
            raise ConfigError("cannot use --etcd-client-username with --etcd-embed")
        if self.etcd_embed and self.etcd_client_password_file:
            raise ConfigError("cannot use --etcd-client-password with --etcd-embed")
        if not self.etcd_embed and not self.etcd_client_endpoints:
            raise ConfigError("must specify --etcd-client-endpoints when not using embedded etcd")
        if not 1 <= self.partitions <= 65_536:
            raise ConfigError(f"--partitions is {self.partitions}, allowed are 1 to 65536")
        if self.etcd_max_txn_ops < 2 or self.etcd_max_request_bytes < 65_536:
            raise ConfigError("--etcd-max-txn-ops must be at least 2, --etcd-max-request-bytes at least 65536")
        if self.max_connections < 1 or (self.max_message_bytes is not None and self.max_message_bytes < 1_024):
            raise ConfigError("--max-connections must be at least 1, --max-message-bytes at least 1024")
        if self.ack_timeout_s != 0 and not 0.1 <= self.ack_timeout_s < float("inf"):
            raise ConfigError(f"--ack-timeout is {self.ack_timeout_s} s; 0 is none, else at least 0.1")
        if not 2 <= self.lease_ttl_s <= 300:
            raise ConfigError(f"--lease-ttl is {self.lease_ttl_s} s, allowed are 2 to 300")
        if not self.id or "/" in self.id:
            raise ConfigError(f"--id is {self.id!r}; it must not be empty nor contain '/'")
        self._check_processes()
        self._check_identity()

    def _check_processes(self) -> None:
        if not 1 <= self.processes <= 64:
            raise ConfigError(f"--processes is {self.processes}, allowed are 1 to 64")
        last = self.port + self.processes - 1
        if self.port and last > 65_535:
            raise ConfigError(
                f"--processes {self.processes} needs the ports {self.port} to {last}; the last port is 65535"
            )
        others = {
            "--healthz-port": self.healthz_port,
            "--metrics-port": self.metrics_port,
            "--etcd-client-port": self.etcd_client_port,
        }
        for flag, port in others.items():
            if self.processes > 1 and self.port <= port <= last and port:
                raise ConfigError(
                    f"{flag} is {port}, which --processes {self.processes} takes: the replicas listen on {self.port} to {last}"
                )
        host, _, port_told = self.override_broadcast_host_port.rpartition(":")
        if self.processes > 1 and self.override_broadcast_host_port and not (host and port_told.isdigit()):
            raise ConfigError(
                f"--override-broadcast-host-port is {self.override_broadcast_host_port!r}; with --processes it must be host:port, "
                "the first replica's, and the others' ports follow it"
            )

    def _check_identity(self) -> None:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ConfigError("--tls-cert-file and --tls-key-file go together")
        if self.mode not in {"standalone", "kubernetes"}:
            raise ConfigError(f"--mode is {self.mode!r}, allowed are standalone and kubernetes")
        if self.kubeconfig is not None and self.mode != "kubernetes":
            raise ConfigError("kubeconfig flag is only valid in --mode=kubernetes")
        if (
            self.tls_cert_file is not None
            and self.tls_ca_file is None
            and (self.tls_enabled or self.mode == "kubernetes")
        ):
            raise ConfigError("--tls-ca-file is missing: mutual TLS needs to know who signs the clients' certificates")
        for pattern in self.admin_identities:
            if not _OPERATOR.fullmatch(pattern):
                raise ConfigError(
                    f"--admin-identities has {pattern!r}; allowed are spiffe://TRUST-DOMAIN/ns/NAMESPACE/APP-ID with * for any "
                    "part or some of its letters, and * alone for everybody"
                )
        if not self.mutual_tls:
            # TLS without client certificates tells nobody apart: strangers stay out either way.
            require_loopback("--listen-address", self.listen_address, allow_insecure=self.allow_insecure)

    @property
    def message_max_bytes(self) -> int:
        """The largest request: what gRPC servers usually take, or what etcd does where that is more."""
        return self.max_message_bytes or max(4 << 20, self.etcd_max_request_bytes)

    @property
    def from_sentry(self) -> bool:
        """Whether our certificate comes from the reference's certificate authority."""
        return self.tls_cert_file is None and (self.tls_enabled or self.mode == "kubernetes")

    @property
    def mutual_tls(self) -> bool:
        """Whether clients must prove who they are."""
        return self.tls_ca_file is not None or self.from_sentry

    @property
    def trust_domains(self) -> frozenset[str]:
        """Whose clients may be somebody: the apps' and the control plane's own."""
        return frozenset((*self.app_trust_domains, self.trust_domain))


APP_PROTOCOLS = ("http", "https", "h2c", "grpc", "grpcs")


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarSettings:
    """One sidecar beside one app."""

    app_id: str
    app_port: int | None = None
    app_protocol: str = "http"
    app_channel_address: str = "127.0.0.1"
    app_max_concurrency: int = -1
    enable_app_health_check: bool = False
    app_health_check_path: str = "/healthz"
    app_health_probe_interval_s: float = 5.0
    app_health_probe_timeout_ms: int = 500
    app_health_threshold: int = 3
    namespace: str = "default"
    dapr_http_port: int = 3500
    dapr_grpc_port: int = 50001
    dapr_public_port: int | None = None
    dapr_listen_addresses: tuple[str, ...] = ("127.0.0.1",)
    unix_domain_socket: Path | None = None
    enable_metrics: bool = True
    metrics_listen_address: str = "127.0.0.1"
    # None: 9090, or any free one where that is taken.
    metrics_port: int | None = None
    metrics_namespace: str = ""
    scheduler_host_address: tuple[str, ...] = ("localhost:50006",)
    scheduler_job_streams: int = 3
    max_body_size_bytes: int = 4 << 20
    read_buffer_size_bytes: int = 4 << 10
    enable_api_logging: bool = False
    disable_h2c: bool = False
    dapr_api_token: str = ""
    app_api_token: str = ""
    graceful_shutdown_s: float = 5.0
    block_shutdown_s: float = 0.0
    mode: str = "standalone"
    enable_mtls: bool = False
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    tls_ca_file: Path | None = None
    sentry_address: str = ""
    sentry_token_file: Path = Path("/var/run/secrets/dapr.io/sentrytoken/token")
    trust_anchors: str = ""
    trust_domain: str = "public"
    control_plane_trust_domain: str = "localhost"
    control_plane_namespace: str = "default"
    allow_insecure: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        if not self.app_id or "." in self.app_id:
            raise ConfigError(f"--app-id is {self.app_id!r}; it must not be empty nor contain a dot")
        if self.app_protocol not in APP_PROTOCOLS:
            raise ConfigError(f"--app-protocol is {self.app_protocol!r}, allowed are {', '.join(APP_PROTOCOLS)}")
        if self.scheduler_job_streams < 1:
            raise ConfigError(f"--scheduler-job-streams is {self.scheduler_job_streams}, at least 1 is needed")
        if self.app_port is not None and not 0 < self.app_port < 65536:
            raise ConfigError(f"--app-port is {self.app_port}, allowed are 1 to 65535")
        if self.app_port is not None and self.app_port in {self.dapr_http_port, self.dapr_grpc_port}:
            raise ConfigError(f"--app-port {self.app_port} is also the sidecar's own port")
        if self.dapr_http_port and self.dapr_http_port == self.dapr_grpc_port:
            raise ConfigError(f"--dapr-http-port and --dapr-grpc-port are both {self.dapr_http_port}")
        if self.max_body_size_bytes < 1 or self.read_buffer_size_bytes < 256:
            raise ConfigError("--max-body-size must be at least 1 byte, --read-buffer-size at least 256")
        for host in () if self.unix_domain_socket else self.dapr_listen_addresses:
            require_loopback("--dapr-listen-addresses", host, allow_insecure=self.allow_insecure)
        self._check_health()
        self._check_identity()

    def _check_health(self) -> None:
        if not 0 < self.app_health_probe_timeout_ms <= self.app_health_probe_interval_s * 1000:
            raise ConfigError(
                f"--app-health-probe-timeout is {self.app_health_probe_timeout_ms} ms; it must be positive and at most the "
                f"probe interval, which is {self.app_health_probe_interval_s * 1000:.0f} ms"
            )
        if self.app_health_threshold < 1:
            raise ConfigError(f"--app-health-threshold is {self.app_health_threshold}, at least 1 is needed")

    def _check_identity(self) -> None:
        files = (self.tls_cert_file, self.tls_key_file, self.tls_ca_file)
        if any(files) and not all(files):
            raise ConfigError("--tls-cert-file, --tls-key-file and --tls-ca-file go together")
        if self.from_sentry and not (self.trust_anchors and self.sentry_address):
            raise ConfigError(
                "mutual TLS needs --tls-cert-file, --tls-key-file and --tls-ca-file, or --sentry-address and the trust anchors in "
                "DAPR_TRUST_ANCHORS"
            )

    @property
    def authority(self) -> str:
        """The app's address, as URLs have it."""
        host = self.app_channel_address
        return f"[{host}]" if ":" in host and not host.startswith("[") else host

    @property
    def from_sentry(self) -> bool:
        """Whether our certificate comes from the reference's certificate authority."""
        return self.tls_cert_file is None and (self.enable_mtls or self.mode == "kubernetes")

    @property
    def scheduler_identity(self) -> str:
        """Who a scheduler must be, under mutual TLS."""
        return f"spiffe://{self.control_plane_trust_domain}/ns/{self.control_plane_namespace}/dapr-scheduler"
