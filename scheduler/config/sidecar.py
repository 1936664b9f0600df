"""The settings of `scheduler sidecar`."""

from dataclasses import dataclass
from pathlib import Path

from scheduler.config.checks import ConfigError, require_loopback
from scheduler.config.setting import LOG_LEVELS, required, setting

APP_PROTOCOLS = ("http", "https", "h2c", "grpc", "grpcs")


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarSettings:
    """One sidecar beside one app."""

    app_id: str = required("The app's id: who its jobs belong to.")
    app_port: int | None = setting(None, "Port that the app listens on; without one no jobs are received.")
    app_protocol: str = setting("http", "How the app is told.", choices=APP_PROTOCOLS)
    app_channel_address: str = setting("127.0.0.1", "Address that the app listens on.")
    app_max_concurrency: int = setting(-1, "Triggers at once at the app; -1: no limit.")
    enable_app_health_check: bool = setting(False, "Receive jobs only while the app says that it is healthy.")
    app_health_check_path: str = setting("/healthz", "Path that is probed over HTTP.")
    app_health_probe_interval_s: float = setting(5.0, "Seconds from probe to probe.", flag="app-health-probe-interval")
    app_health_probe_timeout_ms: int = setting(500, "Milliseconds for a probe.", flag="app-health-probe-timeout")
    app_health_threshold: int = setting(3, "Failures in a row that make the app unhealthy.")
    namespace: str = setting("default", "The app's namespace.", environment=("NAMESPACE",))
    dapr_http_port: int = setting(3500, "Port of the HTTP Jobs API; 0: any free one.")
    dapr_grpc_port: int = setting(50001, "Port of the gRPC runtime API; 0: any free one.")
    dapr_public_port: int | None = setting(None, "A second HTTP port, for health and metadata alone.")
    dapr_listen_addresses: tuple[str, ...] = setting(("127.0.0.1",), "Listen addresses, comma separated.")
    unix_domain_socket: Path | None = setting(None, "Directory for Unix sockets, in place of the two ports.")
    enable_metrics: bool = setting(True, "Serve Prometheus metrics.")
    metrics_listen_address: str = setting("127.0.0.1", "Metrics listen address.")
    metrics_port: int | None = setting(None, "Port of the metrics.", shown="9090, or a free one where that is taken")
    metrics_namespace: str = ""
    scheduler_host_address: tuple[str, ...] = setting(
        ("localhost:50006",),
        "Schedulers, comma separated or repeated; empty: none.",
        environment=("DAPR_SCHEDULER_HOST_ADDRESS_DNS_A",),
        repeatable=True,
    )
    scheduler_job_streams: int = setting(3, "Streams per scheduler.")
    max_body_size_bytes: int = setting(
        4 << 20, "Largest request and message.", unit="size", shown="4Mi", flag="max-body-size"
    )
    read_buffer_size_bytes: int = setting(
        4 << 10, "Largest request header.", unit="size", shown="4Ki", flag="read-buffer-size"
    )
    enable_api_logging: bool = setting(False, "Log every call of the API.")
    disable_h2c: bool = False
    dapr_api_token: str = setting(
        "", "Token that callers show: by $DAPR_API_TOKEN or its file alone.", environment=("DAPR_API_TOKEN",)
    )
    dapr_api_token_file: Path | None = setting(None, "File with the token that callers show.")
    app_api_token: str = setting(
        "", "Token that the app is shown: by $APP_API_TOKEN or its file alone.", environment=("APP_API_TOKEN",)
    )
    app_api_token_file: Path | None = setting(None, "File with the token that the app is shown.")
    graceful_shutdown_s: float = setting(
        5.0, "Seconds that the app has, at the end, for what it has begun.", flag="dapr-graceful-shutdown-seconds"
    )
    block_shutdown_s: float = setting(
        0.0,
        "Go on for so long after SIGTERM, before stopping.",
        unit="duration",
        shown="0s",
        flag="dapr-block-shutdown-duration",
    )
    mode: str = setting(
        "standalone", "kubernetes: mutual TLS with the schedulers, always.", choices=("standalone", "kubernetes")
    )
    enable_mtls: bool = setting(False, "Mutual TLS with the schedulers, by Sentry unless files are given.")
    tls_cert_file: Path | None = setting(None, "Our certificate towards the schedulers; turns mutual TLS on.")
    tls_key_file: Path | None = setting(None, "Its key.")
    tls_ca_file: Path | None = setting(None, "CA of the schedulers' certificates.")
    sentry_address: str = setting("", "Sentry's host:port.")
    sentry_token_file: Path = setting(
        Path("/var/run/secrets/dapr.io/sentrytoken/token"), "Token that proves us to Sentry."
    )
    trust_anchors: str = setting("", "Trust anchors (PEM), with Sentry.", environment=("DAPR_TRUST_ANCHORS",))
    trust_domain: str = setting("public", "The app's SPIFFE trust domain, with Sentry.")
    control_plane_trust_domain: str = setting(
        "localhost", "SPIFFE trust domain that schedulers must be of.", environment=("DAPR_CONTROLPLANE_TRUST_DOMAIN",)
    )
    control_plane_namespace: str = setting(
        "default", "Namespace that schedulers must be of.", environment=("DAPR_CONTROLPLANE_NAMESPACE",)
    )
    tracing: bool = setting(
        False,
        "OpenTelemetry spans of the API's calls and of what the app is told, exported as the OTEL_* variables say.",
    )
    tracing_spans_per_second: int = setting(100, "Bound on spans of triggers, and as much on those of calls.")
    allow_insecure: bool = setting(False, "Listen in plaintext on addresses other than loopback.")
    log_level: str = setting(
        "info",
        "Least important lines that are logged; a change in the file of settings takes effect at once.",
        choices=LOG_LEVELS,
        live=True,
    )
    log_as_json: bool = setting(False, "Log lines of JSON.")

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
        if self.tracing_spans_per_second < 1:
            raise ConfigError(f"--tracing-spans-per-second is {self.tracing_spans_per_second}, at least 1 is needed")
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
