"""What a sidecar costs (docs/sidecar.md has the figures, scripts/measure-sidecar prints them), held to bounds that a slow machine keeps too."""

import resource

import pytest

from tests.support.load import measure

pytestmark = [pytest.mark.alone, pytest.mark.slow]


async def test_a_thousand_triggers_a_second_on_one_core() -> None:
    cost = await measure(rate=1_000, seconds=5, at_once=0, answer_s=0.002)
    assert cost.cpu_seconds / cost.triggers < 0.0009, cost
    assert cost.seconds < 5 + 2, cost


async def test_ten_thousand_triggers_in_flight_in_bounded_memory() -> None:
    """Over HTTP/1.1 each has a connection of its own; the app answers none before it has long had them all."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert files == resource.RLIM_INFINITY or files > 10_500, "the test needs that many files"
    cost = await measure(rate=0, seconds=0, at_once=10_000, answer_s=10)
    assert cost.rss_peak - cost.rss_before < 300 << 20, cost
