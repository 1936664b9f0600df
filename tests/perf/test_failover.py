"""Every occurrence under a fault is accounted for: what the account finds, and a crash on real processes."""

import pytest

from tests.perf.failover import Delivery, Fault, S, Seen, account, play
from tests.perf.page import failover

FIRST = [100 * S, 100 * S + S // 2]
UNTIL = 110 * S
KILLED = Fault("kill -9", 105 * S, 6.0, may_repeat=True)


def clean(late_s: float = 0.002) -> list[Delivery]:
    return [
        Delivery(job, at, at + int(late_s * S), 7 + job, f"replica-{job}", job)
        for job, first in enumerate(FIRST)
        for at in range(first, UNTIL, S)
    ]


def judged(deliveries: list[Delivery], fault: Fault = KILLED, lost_ns: dict[int, int] | None = None):
    seen = Seen()
    seen.deliveries, seen.lost_ns = deliveries, lost_ns or {}
    [part] = account(seen, FIRST, UNTIL, [fault])
    return part.figures, part.problems


def test_a_clean_history_passes() -> None:
    figures, problems = judged(clean())
    assert problems == [] and figures["occurrences"] == 20 and figures["held up"] == 0


def test_an_occurrence_that_never_came_is_lost() -> None:
    history = clean()
    gone = history.pop(4)
    figures, problems = judged(history)
    assert figures["lost"] == 1 and problems == ["lost: 1"] and gone.job == 0


def test_one_that_came_before_its_time_is_early() -> None:
    history = clean()
    history[3] = history[3]._replace(at_ns=history[3].scheduled_ns - S // 100)
    assert judged(history)[1] == ["early: 1"]


@pytest.mark.parametrize(
    ("again", "lost_ns", "may_repeat", "causeless"),
    [
        ({}, {}, True, 1),
        ({"epoch": 9}, {}, True, 0),
        ({"epoch": 9}, {}, False, 1),
        ({"session": 3}, {0: 1}, True, 0),
        ({"session": 3}, {0: 200 * S}, True, 1),
    ],
)
def test_one_that_came_twice_needs_a_cause(again, lost_ns, may_repeat, causeless) -> None:
    history = clean()
    history.append(history[2]._replace(at_ns=history[2].at_ns + S // 10, **again))
    figures, _ = judged(history, KILLED._replace(may_repeat=may_repeat), lost_ns)
    assert (figures["repeated"], figures["repeated without cause"]) == (1, causeless)


def test_a_time_that_is_not_on_the_schedule_is_told() -> None:
    history = clean()
    history.append(history[2]._replace(scheduled_ns=history[2].scheduled_ns + 5, at_ns=history[2].at_ns + 5))
    assert judged(history)[1] == ["not on the schedule: 1"]


def held_up(until_s: int) -> list[Delivery]:
    """Job 0 stands still from the fault until then, and catches up in a tenth of a second each."""
    history = clean()
    late = [
        one for one in history if one.job == 0 and one.scheduled_ns >= KILLED.at_ns and one.scheduled_ns < until_s * S
    ]
    for number, one in enumerate(late):
        history[history.index(one)] = one._replace(at_ns=until_s * S + number * S // 10, epoch=9, replica="replica-1")
    return history


def test_the_time_until_firing_resumes_is_promised_and_the_backlogs_time_is_shown() -> None:
    figures, problems = judged(held_up(109))
    assert problems == []
    assert (figures["resumed after (s)"], figures["held up"], figures["jobs that moved"]) == (4.0, 4, 1)
    assert figures["backlog took (s)"] == pytest.approx(0.3) and figures["late by at most (s)"] == 4.0
    assert figures["late by at most where the owner stayed (s)"] == 0.002
    _, problems = judged(held_up(109), KILLED._replace(resumes_s=3.0))
    assert problems[0] == "resumed after 4.00 s, promised are 3.00 s" and "late by 4.00 s" in problems[1]


def test_each_fault_has_its_own_part() -> None:
    seen = Seen()
    seen.deliveries = held_up(109)
    lost = seen.deliveries.pop(0)
    back = Fault("it comes back", 109 * S + S // 20, 0.5, may_repeat=False)
    killed, returned = account(seen, FIRST, UNTIL, [KILLED, back])
    assert lost.scheduled_ns == FIRST[0] and killed.problems == ["lost: 1"]
    assert (killed.figures["held up"], returned.figures["held up"]) == (1, 3)
    assert killed.figures["occurrences"] + returned.figures["occurrences"] == 19
    assert "more than the promised 0.50 s" in returned.problems[0]


@pytest.mark.e2e
@pytest.mark.etcd
@pytest.mark.slow
@pytest.mark.alone
def test_a_crash_at_a_thousand_triggers_a_second_loses_nothing(tmp_path) -> None:
    entry = play("kill", 1_000, tmp_path)
    killed, returned = entry["parts"]
    assert killed["problems"] == [], killed
    assert returned["figures"]["lost"] == returned["figures"]["repeated"] == returned["figures"]["early"] == 0, returned
    assert killed["figures"]["held up"] > 250 and killed["figures"]["jobs that moved"] > 250, killed
    assert "| kill -9 | 1,000 | pass |" in "\n".join(failover({"kill": entry}))
