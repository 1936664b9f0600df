"""The transport's limits, each with its reason. docs/transport.md tells what happens at each, and which test shows it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one connection, and all of a server's together, may ask of us; past a limit the stream or the connection ends, nobody else's."""

    # A sidecar shares one connection between long streams and unary calls; the next call must not wait for a slot.
    concurrent_streams_max: int = 1_000
    # The default of every gRPC server; etcd takes less unless it is told otherwise, so nobody has a use for more.
    message_max_bytes: int = 4 << 20
    # A list of 100 jobs of 2 MB is an answer, and more than twice that is a program's mistake.
    answer_max_bytes: int = 512 << 20
    header_list_max_bytes: int = 16 << 10
    # A header list of 16 KiB fits one frame; a flood of CONTINUATION frames does not.
    continuation_frames_max: int = 16
    # There are six settings; more entries in one frame are only work for us (CVE-2020-11080).
    settings_entries_max: int = 32
    # Acknowledgements must never stall on windows; a window is memory only while a message is incomplete.
    stream_window_bytes: int = 4 << 20
    connection_window_bytes: int = 32 << 20
    # Rapid reset (CVE-2023-44487) and resets that we are made to send (CVE-2025-8671): of streams younger than a second, more
    # than any honest client has. An old stream has paid with its place.
    resets_per_second_max: int = 1_000
    # PING, empty DATA, late frames and their like cost us answers; grpc-go's bandwidth probes stay far below. A SETTINGS frame
    # counts once more for each open stream, since it may move the window of each.
    control_frames_per_second_max: int = 20_000
    # For TLS as well as for the first SETTINGS after it.
    handshake_timeout_s: float = 10.0
    # Strangers cost an open file each until their TLS handshake is done; beyond it the next is refused.
    handshakes_max: int = 1_000
    # All connections of a server, and those that show one certificate: a sidecar keeps a few, and each has a certificate of its own.
    connections_max: int = 10_000
    connections_per_certificate_max: int = 64
    # A unary request that is not complete by then holds a stream for nothing.
    request_timeout_s: float = 30.0
    # A peer that takes less than that of what waits for it, in so long a time, has given up (a window of one byte is no reader).
    send_stall_timeout_s: float = 60.0
    send_progress_min_bytes: int = 16 << 10
    # What one connection may make us hold: answers that it does not read and messages that it does not finish. A single answer may
    # be larger, such as a long list, but behind it nothing more is taken on.
    held_max_bytes: int = 64 << 20
    # The same for all connections of a server together; beyond it the one that holds the most is closed.
    held_total_max_bytes: int = 512 << 20
    # Frames that no window holds back (answers without a body, PING answers) to a peer that reads nothing.
    unread_frames_max_bytes: int = 4 << 20
    # As the reference's server: sidecars rely on our pings to keep idle streams alive.
    keepalive_idle_s: float = 3.0
    keepalive_timeout_s: float = 5.0
    # Above the high mark a stream's writer is told to wait; below the low mark it may go on. Also the largest portion of one turn.
    send_high_bytes: int = 1 << 20
    send_low_bytes: int = 256 << 10
    # One read takes at most this much: some hundred messages, two milliseconds of work, before other connections and timers get their turn.
    read_bytes: int = 4 << 10
