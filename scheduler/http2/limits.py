"""The transport's limits, each with its reason."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one connection may ask of us; past a limit the stream or the connection ends, nobody else's."""

    # A sidecar shares one connection between long streams and unary calls; the next call must not wait for a slot.
    concurrent_streams_max: int = 10_000
    # Unlimited in the reference; etcd caps what can be stored, lists may be large, so only the inbound side is bounded.
    message_max_bytes: int = 64 << 20
    header_list_max_bytes: int = 16 << 10
    # A header list of 16 KiB fits one frame; a flood of CONTINUATION frames does not.
    continuation_frames_max: int = 16
    # Acknowledgements must never stall on windows; a window is memory only while a message is incomplete.
    stream_window_bytes: int = 4 << 20
    connection_window_bytes: int = 32 << 20
    # Rapid reset (CVE-2023-44487): more cancelled calls a second than any honest client makes.
    resets_per_second_max: int = 1_000
    # PING, SETTINGS, empty DATA and their like cost us answers; grpc-go's bandwidth probes stay far below.
    control_frames_per_second_max: int = 20_000
    handshake_timeout_s: float = 10.0
    # All connections of a server, and those that show one certificate: a sidecar keeps a few, and each has a certificate of its own.
    connections_max: int = 10_000
    connections_per_certificate_max: int = 64
    # A unary request that is not complete by then holds a stream for nothing.
    request_timeout_s: float = 30.0
    # A peer that takes nothing of what waits for it for so long has given up.
    send_stall_timeout_s: float = 60.0
    # What may wait for one peer before further unary answers are refused; a single one may be larger, such as a long list.
    send_backlog_max_bytes: int = 64 << 20
    # As the reference's server: sidecars rely on our pings to keep idle streams alive.
    keepalive_idle_s: float = 3.0
    keepalive_timeout_s: float = 5.0
    # Above the high mark a stream's writer is told to wait; below the low mark it may go on.
    send_high_bytes: int = 1 << 20
    send_low_bytes: int = 256 << 10
