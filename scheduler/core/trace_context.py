"""W3C trace context as it is carried from whoever schedules a job to whoever is told of it: checked and bounded, not understood."""

import re
from collections.abc import Mapping
from typing import NamedTuple

# Any version and any flags: later ones must be carried too.
_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{0,64})?")
_STATE = re.compile(r"[ -~]{0,512}")


# How a job's triggers may belong to the trace of what scheduled it, and the header by which an app says so.
PROPAGATIONS = ("link", "parent", "none")
PROPAGATION_HEADER = "scheduler-tracing"


class TraceContext(NamedTuple):
    """The two headers."""

    parent: str
    state: str


def carried(parent: str, state: str) -> TraceContext | None:
    """What is carried of these; a state that is malformed or long is dropped, as the recommendation says."""
    if _PARENT.fullmatch(parent) is None:
        return None
    return TraceContext(parent, state if _STATE.fullmatch(state) else "")


def of_headers(headers: Mapping[str, str]) -> TraceContext | None:
    """The context of a call, by its headers or metadata, whose names are in lower case."""
    parent = headers.get("traceparent")
    return None if parent is None else carried(parent, headers.get("tracestate", ""))
