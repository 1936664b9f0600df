"""The timer queue against a list that is sorted again at each question."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.timers import GRAIN_NS, TimerQueue
from tests.core.test_lifecycle import S, make

HOUR_NS = 3_600 * S
START_NS = 1_764_000_000 * S


def job_at(ns: int):
    job = make()
    job.fire_ns = ns
    return job


def drain(queue: TimerQueue, now_ns: int, limit: int = 512) -> list:
    """All that is due, however many questions that takes: the queue spreads coarse buckets a slice at each."""
    due = []
    while True:
        due += queue.pop_due(now_ns, limit)
        next_ns = queue.next_due_ns()
        if next_ns is None or next_ns > now_ns:
            return due


def test_timers_never_fire_early_and_keep_order() -> None:
    queue = TimerQueue()
    jobs = [job_at(offset * GRAIN_NS - 1) for offset in (5, 1, 3, 3)]
    for job in jobs:
        queue.push(job)
    assert queue.pop_due(GRAIN_NS - 1, 10) == []
    assert queue.pop_due(3 * GRAIN_NS, 2) == [jobs[1], jobs[2]]
    assert queue.pop_due(3 * GRAIN_NS, 2) == [jobs[3]]
    queue.cancel(jobs[0])
    assert queue.pop_due(99 * GRAIN_NS, 9) == [] and len(queue) == 0


def test_cancelled_timers_do_not_pile_up() -> None:
    queue = TimerQueue(START_NS)
    for index in range(20_000):
        job = job_at(START_NS + (index % 7) * HOUR_NS)
        queue.push(job)
        queue.cancel(job)
    assert len(queue) == 0
    assert not any(any(level.buckets.values()) for level in queue._levels)
    assert sum(len(level.periods) for level in queue._levels) <= 7


def test_a_million_jobs_of_one_far_instant_cost_a_slice_at_a_time_and_are_due_on_time() -> None:
    queue = TimerQueue(START_NS)
    due_ns = START_NS + HOUR_NS
    for _ in range(50_000):
        queue.push(job_at(due_ns))
    questions = 0
    now_ns = START_NS
    while (next_ns := queue.next_due_ns()) is not None and next_ns < due_ns:
        now_ns = max(now_ns, next_ns)
        assert queue.pop_due(now_ns, 512) == []
        questions += 1
        assert questions < 100
    # A whole period of the middle level ahead.
    assert now_ns <= due_ns - (GRAIN_NS << 14)
    assert len(queue.pop_due(due_ns + GRAIN_NS, 512)) == 512
    assert len(drain(queue, due_ns + GRAIN_NS)) == 50_000 - 512


def test_a_storm_of_one_instant_does_not_keep_later_ones_waiting() -> None:
    queue = TimerQueue(START_NS)
    for _ in range(100_000):
        queue.push(job_at(START_NS))
    assert len(queue.pop_due(START_NS, 512)) == 512
    later = [job_at(START_NS + number * GRAIN_NS) for number in (1, 2, 3)]
    for job in later:
        queue.push(job)
    assert set(later) <= set(queue.pop_due(START_NS + 3 * GRAIN_NS, 512))
    assert len(drain(queue, START_NS + 3 * GRAIN_NS)) == 100_000 - 2 * 512 + len(later)


def test_a_storm_of_one_target_does_not_keep_others_of_its_instant_waiting() -> None:
    queue = TimerQueue(START_NS)
    for index in range(100_000):
        job = job_at(START_NS)
        job.target = "quiet" if index % 10_000 == 9_999 else "storm"
        queue.push(job)
    before: list[int] = []
    fired = 0
    while due := queue.pop_due(START_NS, 512):
        before += [fired + place for place, job in enumerate(due) if job.target == "quiet"]
        fired += len(due)
    assert fired == 100_000 and len(before) == 10
    # All have come once the instant is sorted, and long before the storm has gone.
    assert max(before) <= 8 * 512


def test_whoever_looks_after_memory_hears_of_jobs_in_new_lists() -> None:
    """A collector that came upon all lists of a storm at once would walk them, job by job, in one piece."""
    for due_ns in (START_NS, START_NS + HOUR_NS):  # sorted by target; spread from a coarse bucket
        moved: list[int] = []
        queue = TimerQueue(START_NS, kept=moved.append)
        for _ in range(50_000):
            queue.push(job_at(due_ns))
        assert moved == []
        assert len(drain(queue, due_ns)) == 50_000
        assert sum(moved) >= 50_000 and max(moved) <= 16_384


def test_a_storm_of_many_instants_does_not_keep_others_waiting() -> None:
    queue = TimerQueue(START_NS)
    for index in range(50_000):
        job = job_at(START_NS + index // 400 * GRAIN_NS)
        job.target = "quiet" if index % 10_000 == 9_999 else "storm"
        queue.push(job)
    now_ns = START_NS + 1_000 * GRAIN_NS
    order = [job.target for _ in range(8) for job in queue.pop_due(now_ns, 512)]
    assert order.count("quiet") == 5
    assert len(drain(queue, now_ns)) == 50_000 - len(order)


def test_the_clock_may_leap() -> None:
    queue = TimerQueue(START_NS)
    jobs = [job_at(START_NS + hours * HOUR_NS) for hours in (30, 10, 20)]
    for job in jobs:
        queue.push(job)
    assert drain(queue, START_NS + 25 * HOUR_NS) == [jobs[1], jobs[2]]
    assert drain(queue, START_NS) == []
    assert drain(queue, START_NS + 31 * HOUR_NS) == [jobs[0]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1, 60, 3_600, 864_000, 86_400_000]))
def test_it_does_what_a_sorted_list_does(seed: int, width_s: int) -> None:
    rng = random.Random(seed)
    queue, waiting, now_ns = TimerQueue(START_NS), [], START_NS
    for _ in range(300):
        kind = rng.randrange(10)
        if kind < 6:
            job = job_at(now_ns + rng.randrange(-S, width_s * S))
            queue.push(job)
            waiting.append(job)
        elif kind < 8 and waiting:
            job = rng.choice(waiting)
            if rng.randrange(2):
                queue.cancel(job)
                waiting.remove(job)
            else:
                job.fire_ns = now_ns + rng.randrange(width_s * S)
                queue.push(job)
        else:
            now_ns += rng.randrange(width_s * S // 4)
            limit = rng.choice([1, 3, 512])
            due = drain(queue, now_ns, limit)
            assert all(job.fire_ns <= now_ns for job in due)
            assert [job.timer for job in due] == [None] * len(due)
            grains = [-(-job.fire_ns // GRAIN_NS) for job in due]
            if width_s == 1 and limit == 512:  # nothing of it was ever in a coarse bucket, or more than fits
                assert grains == sorted(grains)
            expected = [job for job in waiting if -(-job.fire_ns // GRAIN_NS) <= now_ns // GRAIN_NS]
            assert sorted(map(id, due)) == sorted(map(id, expected))
            waiting = [job for job in waiting if job not in expected]
        assert len(queue) == len(waiting)


class Resting:
    """Keeps nothing of 4 bytes or more, and notes who is wanted."""

    kept_bytes = 3

    def __init__(self) -> None:
        self.wanted: list = []

    def rest(self, job) -> None:
        assert job.trigger is not None
        job.trigger = None

    def want(self, job) -> None:
        assert job.trigger is None
        self.wanted.append(job)


def test_large_payloads_rest_in_coarse_buckets_and_are_wanted_ahead_of_time() -> None:
    resting = Resting()
    queue = TimerQueue(START_NS, resting)
    jobs = {}
    for after_s in (1, 40, 120, 3_600, 30 * 86_400):
        for size in (3, 4):
            jobs[after_s, size] = job = job_at(START_NS + after_s * S)
            job.trigger = bytes(size)
            queue.push(job)
    assert [place for place, job in jobs.items() if job.trigger is None] == [(120, 4), (3_600, 4), (30 * 86_400, 4)]
    assert not resting.wanted
    for after_s in (120, 3_600, 30 * 86_400):
        drain(queue, START_NS + (after_s - 100) * S)
        assert jobs[after_s, 4] not in resting.wanted
        drain(queue, START_NS + (after_s - 49) * S)
        assert jobs[after_s, 4] in resting.wanted


def test_a_job_whose_payload_rests_is_wanted_when_it_is_armed_anew_for_soon() -> None:
    resting = Resting()
    queue = TimerQueue(START_NS, resting)
    job = job_at(START_NS + HOUR_NS)
    job.trigger = bytes(100)
    queue.push(job)
    queue.cancel(job)
    queue.push(job)
    assert not resting.wanted
    job.fire_ns = START_NS + S
    queue.push(job)
    assert resting.wanted == [job]
    assert drain(queue, START_NS + 2 * S) == [job]
