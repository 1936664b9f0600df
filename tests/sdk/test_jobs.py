"""Each Dapr SDK's jobs API, unchanged, against our sidecar, a replica and a real etcd."""

import pytest

from tests.sdk.app import Refused, SdkApp
from tests.support.processes import wait_until

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.e2e]

EVERY_BYTE = bytes(range(256))
PAYLOADS = [EVERY_BYTE, b" \t\n {} \r\n ", b"\x00", '{"größe": 1}'.encode(), b"x" * 100_000]


def test_a_job_comes_back_as_it_was_scheduled(app: SdkApp) -> None:
    given = {"schedule": "@every 1h", "repeats": 10, "due_time": "2099-01-02T03:04:05Z", "ttl": "2100-01-01T00:00:00Z"}
    app.schedule("kept", **given, data=EVERY_BYTE, type_url="example.com/bytes")
    job = app.get("kept")
    assert {key: job[key] for key in given} == given
    assert (job["name"], job["data"], job["type_url"]) == ("kept", EVERY_BYTE, "example.com/bytes")
    app.delete("kept")
    assert app.gone("kept")
    app.delete("kept")


def test_durations_come_back_as_text(app: SdkApp) -> None:
    app.schedule("relative", schedule="@daily", due_time="10h", ttl="24h30m")
    job = app.get("relative")
    assert (job["due_time"], job["ttl"], job["data"]) == ("10h", "24h30m", None)
    app.delete("relative")


@pytest.mark.parametrize("data", PAYLOADS, ids=["every-byte", "blanks", "nul", "utf-8", "100-kB"])
def test_the_handler_receives_the_data_byte_for_byte(app: SdkApp, data: bytes) -> None:
    app.triggers.clear()
    app.schedule("takes", due_time="0s", data=data)
    wait_until(lambda: app.of("takes"), timeout_s=10, what="the trigger")
    wait_until(lambda: app.gone("takes"), timeout_s=10, what="the job is done")
    assert app.of("takes") == [data]


def test_the_backup_of_the_how_to_comes_as_often_as_it_says(app: SdkApp) -> None:
    app.triggers.clear()
    app.schedule("prod-db-backup", schedule="@every 1s", repeats=3, due_time="0s", data=b'{"db": "my-prod-db"}')
    wait_until(lambda: app.gone("prod-db-backup"), timeout_s=20, what="the third trigger is the last")
    assert app.triggers == [("prod-db-backup", b'{"db": "my-prod-db"}')] * 3


def test_a_job_is_overwritten_only_when_asked(app: SdkApp) -> None:
    app.schedule("twice", due_time="1h")
    with pytest.raises(Refused, match=r"(?i)already.?exists"):
        app.schedule("twice", due_time="2h")
    assert app.get("twice")["due_time"] == "1h"
    if app.sdk.overwrite:
        app.schedule("twice", due_time="3h", overwrite=True)
        assert app.get("twice")["due_time"] == "3h"
    app.delete("twice")


def test_what_the_scheduler_refuses_reaches_the_caller(app: SdkApp) -> None:
    with pytest.raises(Refused, match="failed to schedule job due to"):
        app.schedule("never", schedule="at tea time")
    with pytest.raises(Refused, match="failed to get job"):
        app.get("never")


def test_a_failing_handler_is_called_as_often_as_the_failure_policy_says(app: SdkApp) -> None:
    app.triggers.clear()
    wanted = {"fails-default": 4}
    app.schedule("fails-default", due_time="0s")
    if app.sdk.policies:
        wanted |= {"fails-drop": 1, "fails-constant": 3}
        app.schedule("fails-drop", due_time="0s", policy={"drop": True})
        app.schedule("fails-constant", due_time="0s", policy={"interval_seconds": 1, "max_retries": 2})
    wait_until(lambda: all(app.gone(name) for name in wanted), timeout_s=20, what="every failing job is given up")
    assert {name: len(app.of(name)) for name in wanted} == wanted


def test_failure_policies_come_back(app: SdkApp) -> None:
    if not app.sdk.policies:
        pytest.skip(f"{app.sdk.name} knows no failure policies")
    for policy in (
        {"drop": True},
        {"interval_seconds": 7, "max_retries": 5},
        {"interval_seconds": 7, "max_retries": None},
    ):
        app.schedule("policy", due_time="1h", policy=policy, overwrite=True)
        assert app.get("policy")["policy"] == policy
    app.schedule("policy", due_time="1h", overwrite=True)
    assert app.get("policy")["policy"] == {"interval_seconds": 1, "max_retries": 3}, "the default, stored"
    app.delete("policy")
