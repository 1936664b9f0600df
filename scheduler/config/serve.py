"""The settings of `scheduler serve`."""

import re
from dataclasses import dataclass
from pathlib import Path

from scheduler.config.checks import ConfigError, require_loopback
from scheduler.config.setting import LOG_LEVELS, setting

_OPERATOR = re.compile(r"\*|spiffe://[A-Za-z0-9._*-]+/ns(/[A-Za-z0-9._*-]+){2}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """One scheduler replica."""

    id: str = setting("dapr-scheduler-server-0", "This replica's name in the cluster.")
    processes: int = setting(
        1, "Replicas on this host, each a process and a member: ID-0 on --port, ID-1 on the next, and so on."
    )
    listen_address: str = setting("127.0.0.1", "gRPC listen address.")
    port: int = setting(50006, "gRPC port; 0: any free one.")
    override_broadcast_host_port: str = setting("", "host:port that sidecars are told, if not the one listened on.")
    healthz_listen_address: str = setting("127.0.0.1", "Health listen address.")
    healthz_port: int = setting(8080, "Port of /healthz, /livez and /readyz.")
    enable_metrics: bool = setting(True, "Serve Prometheus metrics.")
    metrics_listen_address: str = setting("127.0.0.1", "Metrics listen address.")
    metrics_port: int = setting(9090, "Port of the metrics.")
    metrics_dapr_names: bool = setting(True, "Serve metrics by the reference's names, too.")
    etcd_embed: bool | None = setting(None, "Run an etcd as a child process.", shown="unless endpoints are given")
    etcd_client_endpoints: tuple[str, ...] = setting((), "etcd endpoints, comma separated: http(s)://host:port.")
    etcd_client_username: str = setting("", "etcd user.")
    etcd_client_password_file: Path | None = setting(None, "File with the etcd user's password.")
    etcd_ca_file: Path | None = setting(None, "CA that etcd's certificate is checked against.")
    etcd_cert_file: Path | None = setting(None, "Our certificate towards etcd.")
    etcd_key_file: Path | None = setting(None, "Its key.")
    etcd_data_dir: Path = setting(Path("data"), "Data of the embedded etcd; lease file.")
    etcd_client_port: int = setting(2379, "Client port of the embedded etcd; 0: any free one.")
    etcd_max_txn_ops: int = setting(128, "Operations per transaction, as etcd is configured.")
    etcd_max_request_bytes: int = setting(1_572_864, "Largest request, as etcd is configured.")
    etcd_arguments: tuple[str, ...] = ()
    etcd_root: str = setting("/scheduler", "Root of all our keys.")
    partitions: int = setting(128, "Partitions of a new cluster; fixed for its life.")
    lease_ttl_s: int = setting(5, "Seconds until a dead replica's work moves.", flag="lease-ttl")
    max_connections: int = setting(10_000, "gRPC connections; more are refused.")
    max_message_bytes: int | None = setting(
        None, "Largest gRPC message that is taken.", shown="4 MiB, or --etcd-max-request-bytes where that is more"
    )
    in_flight_per_stream: int = setting(8_192, "Unanswered triggers per stream.")
    ack_timeout_s: float = setting(
        0.0,
        "Seconds after which a trigger that is not answered counts as failed; 0: never, as in the reference.",
        flag="ack-timeout",
    )
    commit_window: int = setting(16_384, "Results that may wait for etcd before firing stops.")
    payload_in_memory_bytes: int = setting(
        4_096,
        "Payloads larger than this, of jobs due in more than a minute or two, are not kept in memory but read from etcd again ahead of time.",
    )
    drain_timeout_s: float = setting(8.0, "Seconds for handing partitions over at SIGTERM.", flag="drain-timeout")
    mode: str = setting(
        "standalone",
        "kubernetes: mutual TLS always, and jobs go with their namespace.",
        choices=("standalone", "kubernetes"),
    )
    kubeconfig: Path | None = setting(None, "How to reach Kubernetes, if not by the pod's account.")
    namespace: str = setting("default", "Our own namespace.", environment=("NAMESPACE",))
    tls_enabled: bool = setting(False, "Mutual TLS, by Sentry unless files are given.")
    tls_cert_file: Path | None = setting(None, "Our certificate; turns TLS on.")
    tls_key_file: Path | None = setting(None, "Its key.")
    tls_ca_file: Path | None = setting(None, "CA of the clients; turns mutual TLS with SPIFFE identities on.")
    sentry_address: str = setting("", "Sentry's host:port.", shown="dapr-sentry.NAMESPACE.svc:443")
    sentry_token_file: Path = setting(
        Path("/var/run/secrets/dapr.io/sentrytoken/token"), "Token that proves us to Sentry."
    )
    sentry_identity: str = setting(
        "dapr-scheduler", "App id that we ask Sentry for.", environment=("SENTRY_LOCAL_IDENTITY",)
    )
    trust_anchors_file: Path = setting(Path("/var/run/secrets/dapr.io/tls/ca.crt"), "Trust anchors, with Sentry.")
    trust_domain: str = setting("localhost", "SPIFFE trust domain of the control plane.")
    app_trust_domains: tuple[str, ...] = setting(("public",), "SPIFFE trust domains of apps, comma separated.")
    tracing: str = setting(
        "off",
        "OpenTelemetry spans, exported as the OTEL_* variables say. Unless its job says otherwise, a trigger is a trace of its own with a link to what "
        "scheduled the job (link), part of that trace (parent), or a trace without a link (none).",
        choices=("off", "link", "parent", "none"),
    )
    tracing_spans_per_second: int = setting(100, "Bound on spans of triggers, and as much on those of calls.")
    admin_identities: tuple[str, ...] = setting(
        (),
        "Who may steer the cluster under mutual TLS: SPIFFE identities, * for any part, comma separated.",
        shown="nobody",
    )
    allow_insecure: bool = setting(False, "Serve plaintext on addresses other than loopback.")
    log_level: str = setting(
        "info",
        "Least important lines that are logged; a change in the file of settings takes effect at once.",
        choices=LOG_LEVELS,
        live=True,
    )
    log_as_json: bool = setting(False, "Log lines of JSON.")
    log_file: Path | None = setting(None, "Write the log there instead of to standard error.")

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        if self.etcd_embed is None:
            object.__setattr__(self, "etcd_embed", not self.etcd_client_endpoints)
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
        if self.ack_timeout_s != 0 and not 0.1 <= self.ack_timeout_s < float("inf"):
            raise ConfigError(f"--ack-timeout is {self.ack_timeout_s} s; 0 is none, else at least 0.1")
        if self.tracing not in {"off", "link", "parent", "none"}:
            raise ConfigError(f"--tracing is {self.tracing!r}, allowed are off, link, parent and none")
        if self.tracing_spans_per_second < 1:
            raise ConfigError(f"--tracing-spans-per-second is {self.tracing_spans_per_second}, at least 1 is needed")
        if not 2 <= self.lease_ttl_s <= 300:
            raise ConfigError(f"--lease-ttl is {self.lease_ttl_s} s, allowed are 2 to 300")
        if not self.id or "/" in self.id:
            raise ConfigError(f"--id is {self.id!r}; it must not be empty nor contain '/'")
        self._check_sizes()
        self._check_processes()
        self._check_identity()

    def _check_sizes(self) -> None:
        if self.etcd_max_txn_ops < 2 or self.etcd_max_request_bytes < 65_536:
            raise ConfigError("--etcd-max-txn-ops must be at least 2, --etcd-max-request-bytes at least 65536")
        if self.payload_in_memory_bytes < 0:
            raise ConfigError(
                f"--payload-in-memory-bytes is {self.payload_in_memory_bytes}; 0 keeps none, less is nothing"
            )
        if self.max_connections < 1 or (self.max_message_bytes is not None and self.max_message_bytes < 1_024):
            raise ConfigError("--max-connections must be at least 1, --max-message-bytes at least 1024")

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
