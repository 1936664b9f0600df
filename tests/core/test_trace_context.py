"""W3C trace context: what is carried, and what is not."""

import pytest

from scheduler.core.trace_context import TraceContext, carried, of_headers

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    "parent",
    [PARENT, PARENT[:-2] + "03", PARENT[:-2] + "ff", "01" + PARENT[2:], "cc" + PARENT[2:] + "-what-the-future-will-be"],
)
def test_any_version_and_any_flags_are_carried(parent: str) -> None:
    assert carried(parent, "vendor=x") == TraceContext(parent, "vendor=x")


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "00",
        PARENT.upper(),
        "ff" + PARENT[2:],
        PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32),
        PARENT.replace("00f067aa0ba902b7", "0" * 16),
        PARENT + "\n",
        PARENT + "-" + "x" * 65,
        "é" * 55,
    ],
)
def test_what_is_no_context_is_not_carried(parent: str) -> None:
    assert carried(parent, "vendor=x") is None
    assert of_headers({"traceparent": parent, "tracestate": "vendor=x"}) is None


@pytest.mark.parametrize("state", ["x" * 513, "a=\x00", "a=\n", "é=1"])
def test_a_state_that_is_long_or_malformed_is_dropped(state: str) -> None:
    assert carried(PARENT, state) == TraceContext(PARENT, "")


def test_of_headers() -> None:
    assert of_headers({}) is None
    assert of_headers({"tracestate": "a=b"}) is None
    assert of_headers({"traceparent": PARENT}) == TraceContext(PARENT, "")
