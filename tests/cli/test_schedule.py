"""`scheduler schedule explain`, as it is typed."""

import json

import pytest
import yaml
from click.testing import CliRunner, Result

from scheduler.cli import main


def explain(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["schedule", "explain", *arguments])


def test_words_times_and_notes() -> None:
    ran = explain("0 30 2 * * *", "--tz=Europe/Paris", "--from=2026-03-28T00:00:00Z", "-n", "2")
    assert (ran.exit_code, ran.output.splitlines()[:5]) == (
        0,
        [
            "TZ=Europe/Paris 0 30 2 * * *: at 02:30:00, every day (Europe/Paris)",
            "",
            "TIME IN Europe/Paris     RFC 3339              AFTER --from",
            "Sat 2026-03-28 02:30:00  2026-03-28T01:30:00Z  1h 30m",
            "Mon 2026-03-30 02:30:00  2026-03-30T00:30:00Z  2d 30m",
        ],
    )
    assert "note: 2026-03-29 02:30:00 does not exist in Europe/Paris" in ran.output


def test_documents_say_the_same() -> None:
    arguments = ["TZ=Asia/Tokyo 0 0 3 * * *", "--from=2026-01-01T00:00:00Z", "-n1"]
    found = json.loads(explain(*arguments, "-o", "json").output)
    assert found == yaml.safe_load(explain(*arguments, "-o", "yaml").output)
    assert found["times"] == [{"time": "2026-01-01T18:00:00Z", "local": "2026-01-02 03:00:00"}]
    assert (found["zone"], found["words"], found["notes"]) == ("Asia/Tokyo", "at 03:00:00, every day", [])


def test_without_a_start_it_is_from_now_and_intervals_are_shown_in_the_zone() -> None:
    ran = explain("@every 1h", "--tz=Asia/Tokyo", "-n3")
    assert ran.exit_code == 0 and [line.split()[-1] for line in ran.output.splitlines()[-3:]] == ["1h", "2h", "3h"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["0 61 * * * *"], "  0 61 * * * *\n    ^^ minute\nscheduler: schedule: end of range (61) above maximum (59): 61"),
        (["*/5 * * * *"], "seconds come first, as in: 0 */5 * * * *"),
        (["0 0 0 30 2 *"], "schedule never matches"),
        (["@daily", "--tz=Mars"], "--tz: unknown time zone Mars"),
        (["TZ=UTC @daily", "--tz=Asia/Tokyo"], "--tz: the schedule names its zone itself"),
        (["@daily", "--from=tomorrow"], "--from: 'tomorrow' is not RFC 3339"),
        ([""], "empty spec string"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_with_the_field(arguments: list[str], text: str) -> None:
    ran = explain(*arguments)
    assert ran.exit_code == 1 and text in ran.output
