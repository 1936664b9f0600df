"""Each Dapr SDK's jobs API, unchanged, against our sidecar, a replica and a real etcd."""

from datetime import UTC, datetime

import pytest

from tests.sdk.app import Refused, SdkApp
from tests.support.processes import wait_until

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.e2e]

EVERY_BYTE = bytes(range(256))
PAYLOADS = [EVERY_BYTE, b" \t\n {} \r\n ", b"\x00", '{"größe": 1}'.encode(), b"x" * 100_000]


def now() -> str:
    """As a point in time, which every SDK can say."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_a_job_comes_back_as_it_was_scheduled(app: SdkApp) -> None:
    given = {"schedule": "@every 1h", "repeats": 10, "due_time": "2099-01-02T03:04:05Z", "ttl": "2100-01-01T00:00:00Z"}
    app.schedule("kept", **given, data=EVERY_BYTE, type_url="example.com/bytes")
    job = app.get("kept")
    assert {key: job[key] for key in given} == given
    assert (job["name"], job["data"]) == ("kept", EVERY_BYTE)
    if app.sdk.type_urls:
        assert job["type_url"] == "example.com/bytes"
    app.delete("kept")
    assert app.gone("kept")
    app.delete("kept")


def test_durations_come_back_as_text(app: SdkApp) -> None:
    if not app.sdk.durations:
        pytest.skip(f"{app.sdk.name} knows only points in time")
    app.schedule("relative", schedule="@daily", due_time="10h", ttl="24h30m")
    job = app.get("relative")
    assert (job["due_time"], job["ttl"], job["data"]) == ("10h", "24h30m", None)
    app.delete("relative")


@pytest.mark.parametrize("data", PAYLOADS, ids=["every-byte", "blanks", "nul", "utf-8", "100-kB"])
def test_the_handler_receives_the_data_byte_for_byte(app: SdkApp, data: bytes) -> None:
    app.triggers.clear()
    app.schedule("takes", due_time=now(), data=data)
    wait_until(lambda: app.of("takes"), timeout_s=30, what="the trigger")
    wait_until(lambda: app.gone("takes"), timeout_s=30, what="the job is done")
    assert app.of("takes") == [app.sdk.receives(data)]


def test_the_backup_of_the_how_to_comes_as_often_as_it_says(app: SdkApp) -> None:
    app.triggers.clear()
    app.schedule("prod-db-backup", schedule="@every 1s", repeats=3, due_time=now(), data=b'{"db": "my-prod-db"}')
    wait_until(lambda: app.gone("prod-db-backup"), timeout_s=30, what="the third trigger is the last")
    assert app.triggers == [("prod-db-backup", b'{"db": "my-prod-db"}')] * 3


def test_a_job_is_overwritten_only_when_asked(app: SdkApp) -> None:
    app.schedule("twice", schedule="@every 1h", repeats=1)
    with pytest.raises(Refused, match=r"(?i)already.?exists"):
        app.schedule("twice", schedule="@every 1h", repeats=2)
    assert app.get("twice")["repeats"] == 1
    if app.sdk.overwrite:
        app.schedule("twice", schedule="@every 1h", repeats=3, overwrite=True)
        assert app.get("twice")["repeats"] == 3
    app.delete("twice")


def test_what_the_scheduler_refuses_reaches_the_caller(app: SdkApp) -> None:
    with pytest.raises(Refused, match="failed to schedule job due to"):
        app.schedule("never", schedule="at tea time")
    with pytest.raises(Refused, match="failed to get job"):
        app.get("never")


def test_a_failing_handler_is_called_as_often_as_the_failure_policy_says(app: SdkApp) -> None:
    app.triggers.clear()
    wanted = {"fails-default": 4}
    app.schedule("fails-default", due_time=now())
    if app.sdk.policies:
        wanted |= {"fails-drop": 1, "fails-constant": 3}
        app.schedule("fails-drop", due_time=now(), policy={"drop": True})
        app.schedule("fails-constant", due_time=now(), policy={"interval_seconds": 1, "max_retries": 2})
    wait_until(lambda: all(app.gone(name) for name in wanted), timeout_s=30, what="every failing job is given up")
    assert {name: len(app.of(name)) for name in wanted} == wanted


def test_failure_policies_come_back(app: SdkApp) -> None:
    if not app.sdk.policies:
        pytest.skip(f"{app.sdk.name} knows no failure policies")
    for policy in (
        {"drop": True},
        {"interval_seconds": 7, "max_retries": 5},
        {"interval_seconds": 7, "max_retries": None},
    ):
        app.schedule("policy", schedule="@daily", policy=policy, overwrite=True)
        assert app.get("policy")["policy"] == app.sdk.reads(policy)
    app.schedule("policy", schedule="@daily", overwrite=True)
    assert app.get("policy")["policy"] == app.sdk.reads({"interval_seconds": 1, "max_retries": 3}), "the stored default"
    app.delete("policy")
