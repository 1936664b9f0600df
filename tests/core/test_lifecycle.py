"""The life of a job: scheduler-service.md 2.5, 2.6 and 5.6, sentence by sentence."""

import pytest

from scheduler.core.lifecycle import BURST_MAX, DEFAULT_POLICY, DROP, PACE_NS, FailurePolicy, Job, Progress, State
from scheduler.core.schedule import parse_schedule

S = 1_000_000_000


def make(
    schedule: str | None = "@every 1s",
    *,
    repeats: int | None = None,
    expires: int | None = None,
    policy: FailurePolicy = DEFAULT_POLICY,
    progress: Progress | None = None,
    first: int | None = 10 * S,
) -> Job:
    parsed = parse_schedule(schedule) if schedule else None
    return Job(
        key=b"k",
        generation=7,
        revision=1,
        trigger=b"",
        schedule=parsed,
        repeats=repeats,
        first_ns=first,
        expires_ns=expires,
        policy=policy,
        progress=progress,
    )


def test_a_one_shot_is_done_after_its_only_tick() -> None:
    job = make(None)
    job.succeed(10 * S)
    assert job.state is State.DONE and job.progress().done


def test_the_next_tick_follows_the_scheduled_time_not_now() -> None:
    job = make()
    job.succeed(now_ns=500 * S)
    assert (job.state, job.planned_ns) == (State.SETTLED, 11 * S)


def test_repeats_count_ticks() -> None:
    job = make(repeats=2)
    job.succeed(0)
    assert job.state is State.SETTLED
    job.succeed(0)
    assert job.state is State.DONE and job.count == 2


def test_ttl_is_inclusive() -> None:
    job = make(expires=12 * S)
    job.succeed(0)
    job.succeed(0)
    assert job.planned_ns == 12 * S and job.state is State.SETTLED
    job.succeed(0)
    assert job.state is State.DONE and job.count == 3


def test_a_job_whose_ttl_is_over_never_fires() -> None:
    assert make(expires=9 * S).state is State.DONE
    assert make(first=None).state is State.DONE


def test_the_default_policy_gives_four_deliveries_one_second_apart() -> None:
    job = make(None)
    for attempt in range(1, 4):
        job.fail(now_ns=100 * S)
        assert (job.state, job.attempts) == (State.SETTLED, attempt)
        assert job.fire_ns >= 101 * S
    job.fail(now_ns=100 * S)
    assert job.state is State.DONE


def test_a_slow_failure_does_not_shorten_the_interval() -> None:
    """W13: the interval counts from now where the planned time is long past."""
    job = make()
    job.fail(now_ns=60 * S)
    assert job.fire_ns == 61 * S


def test_drop_finishes_the_tick_at_its_first_failure() -> None:
    job = make(policy=DROP, repeats=2)
    job.fail(0)
    assert (job.count, job.attempts, job.state) == (1, 0, State.SETTLED)


def test_constant_without_limit_retries_for_ever_but_never_in_a_hot_loop() -> None:
    job = make(None, policy=FailurePolicy(0, None))
    for _ in range(2_000):
        job.fail(now_ns=20 * S)
        assert job.state is State.SETTLED
    assert job.fire_ns > 20 * S


def test_every_zero_is_paced_after_its_burst() -> None:
    job = make("@every 0s")
    for _ in range(1_500):
        job.succeed(now_ns=20 * S)
    assert job.fire_ns > 20 * S


def test_a_loaded_job_resumes_where_its_progress_left_it() -> None:
    job = make(progress=Progress(7, 3, 0, 12 * S, 0, False))
    assert (job.count, job.planned_ns, job.fire_ns) == (3, 13 * S, 13 * S)
    retrying = make(progress=Progress(7, 3, 2, 12 * S, 99 * S, False))
    assert (retrying.attempts, retrying.planned_ns, retrying.fire_ns) == (2, 13 * S, 99 * S)
    assert make(progress=Progress(7, 3, 0, 12 * S, 0, True)).state is State.DONE


def test_merging_progress_is_monotone() -> None:
    early, late = Progress(1, 2, 3, 0, 0, False), Progress(1, 3, 0, 0, 0, False)
    assert late.supersedes(early) and not early.supersedes(late) and not late.supersedes(late)


@pytest.mark.parametrize("period", ["0s", "1ns", "-1s", "9ms"])
def test_a_tiny_period_is_paced_after_a_burst(period: str) -> None:
    """W8: `@every 1ns` moves its planned time on and would still be a hot loop."""
    job = make(f"@every {period}")
    for _ in range(BURST_MAX):
        job.succeed(500 * S)
    assert job.fire_ns >= 500 * S + PACE_NS
    slow = make("@every 10ms")
    for _ in range(BURST_MAX + 5):
        slow.succeed(500 * S)
    assert slow.fire_ns == slow.planned_ns
