"""`scheduler job export|import|delete-all` against a real replica: nothing is changed on the way, and one bad line costs only itself."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result
from google.protobuf.any_pb2 import Any as AnyMessage

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.cli import main
from scheduler.cli.job_document import pack_value
from scheduler.cli.output import Exit
from tests.support.client import Client, job_metadata
from tests.support.processes import ROOT, EtcdServer, Replica, free_port

pytestmark = [pytest.mark.e2e, pytest.mark.etcd]

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("bulk")
    etcd = EtcdServer(directory / "etcd").start()
    replica = Replica("bulk", directory / "replica", etcd.endpoint)
    try:
        yield replica.start().wait_healthy().address
    finally:
        replica.close()
        etcd.close()


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    one = Client(address)
    for app_id in "abc":
        one.call("DeleteByNamePrefix", pb.DeleteByNamePrefixRequest(metadata=job_metadata(app_id)))
    yield one
    one.close()


@pytest.fixture
def run(client: Client, address: str) -> Run:
    return lambda *arguments, **more: CliRunner().invoke(main, ["job", *arguments, f"--address={address}"], **more)


def schedule(client: Client, name: str, app_id: str = "a", **fields) -> None:
    client.schedule(name, metadata=job_metadata(app_id), **({"schedule": "@every 1h"} | fields))


def jobs(client: Client, app_id: str = "a") -> list[pb.NamedJob]:
    return sorted(client.list(job_metadata(app_id)), key=lambda one: one.name)


def test_there_and_back_is_exact(client: Client, run: Run, tmp_path) -> None:
    schedule(client, "nightly", schedule="TZ=Europe/Paris 0 30 2 * * *", repeats=10, ttl="2040-01-01T00:00:00Z")
    schedule(client, "json", data=pack_value({"db": "ü", "n": [1, 2.5, None, True]}))
    schedule(client, "bytes", data=AnyMessage(type_url="example/thing", value=bytes(range(256))), ttl="2000h")
    schedule(client, "text", data=AnyMessage(value=b"plain"), failure_policy={"drop": {}})
    schedule(client, 'odd ü " |', failure_policy={"constant": {"interval": {"nanos": 5}, "max_retries": 0}})
    schedule(client, "not-ours", app_id="b")
    before, file = jobs(client), tmp_path / "jobs.jsonl"
    ran = run("export", str(file), "--app-id=a")
    assert ran.exit_code == 0 and "exported 5 jobs of a in default" in ran.stderr
    assert (
        "note: 1 have a number of repeats" in ran.stderr
        and "note: 1 have a due time or ttl that is a duration" in ran.stderr
    )
    assert [json.loads(line)["name"] for line in file.read_text().splitlines()] == [one.name for one in before]
    assert list(tmp_path.iterdir()) == [file], "no part is left behind"
    assert run("delete-all", "--app-id=a", "--yes").exit_code == 0
    assert jobs(client) == [] and len(jobs(client, "b")) == 1
    ran = run("import", str(file))
    assert (ran.exit_code, ran.stderr) == (0, "imported 5 jobs, 0 failed\n")
    assert jobs(client) == before
    # And through pipes, for another app.
    ran = run("export", "-", "--app-id=a")
    assert ran.stdout == file.read_text()
    assert run("import", "-", "--app-id=c", input=ran.stdout).exit_code == 0
    assert [one.job for one in jobs(client, "c")] == [one.job for one in before]


def test_a_bad_line_costs_itself_alone(client: Client, run: Run) -> None:
    schedule(client, "there", schedule="@every 1h")
    lines = [
        '{"appId": "a", "name": "good-1", "schedule": "@daily"}',
        "{",
        '{"appId": "a", "name": "x", "shedule": "@daily"}',
        '{"appId": "a", "name": "x", "schedule": "0 61 * * * *"}',
        '{"appId": "a", "name": "x"}',
        '{"appId": "a", "name": "there", "schedule": "@every 2h"}',
        '{"appId": "a", "name": "\\u001b[2J\\n", "schedule": "@daily"}',
        "",
        '{"appId": "a", "name": "good-2", "dueTime": "1h"}',
    ]
    text = "\n".join(lines)
    ran = run("import", "-", input=text)
    assert ran.exit_code == Exit.FAILED
    told = dict(re.findall(r"^line (\d+): (.*)$", ran.stderr, re.MULTILINE))
    assert set(told) == {"2", "3", "4", "5", "6", "7"} and "\\x1b[2J" in told["7"]
    assert "is no JSON" in told["2"] and told["3"] == "shedule: there is no such field; did you mean schedule?"
    assert told["4"] == "schedule: end of range (61) above maximum (59): 61"
    assert told["5"].startswith("schedule: job must have either a due time or a schedule")
    assert "already exists" in told["6"] and "--overwrite" in told["6"]
    assert "\x1b" not in ran.stderr
    names = {one.name: one.job.schedule for one in jobs(client)}
    assert names["there"] == "@every 1h" and {"good-1", "good-2"} <= set(names)
    ran = run("import", "-", "--overwrite", input=lines[5])
    assert ran.exit_code == 0 and {one.name: one.job.schedule for one in jobs(client)}["there"] == "@every 2h"


def test_a_file_can_be_checked_without_a_server() -> None:
    nowhere = f"--address=127.0.0.1:{free_port()}"
    good = '{"appId": "a", "name": "x", "schedule": "@daily"}\n'
    ran = CliRunner().invoke(main, ["job", "import", "-", "--dry-run", nowhere], input=good + '{"name": 1}')
    assert ran.exit_code == Exit.FAILED and "line 2: name: is 1" in ran.stderr
    assert "1 lines can be imported, 1 cannot" in ran.stderr
    ran = CliRunner().invoke(main, ["job", "import", "-", nowhere], input=good)
    assert ran.exit_code == Exit.UNREACHABLE and "imported 0 of 1 jobs" in ran.stderr
    ran = CliRunner().invoke(main, ["job", "export", "/nonexistent/x", "--app-id=a", nowhere])
    assert ran.exit_code == Exit.UNREACHABLE


def test_a_thousand_jobs_and_only_those_of_a_prefix(client: Client, run: Run) -> None:
    lines = [
        f'{{"appId": "a", "name": "{kind}-{n}", "schedule": "@yearly"}}' for kind in ("x", "y") for n in range(500)
    ]
    ran = run("import", "-", input="\n".join(lines))
    assert ran.exit_code == 0 and len(jobs(client)) == 1_000
    ran = run("export", "-", "--app-id=a", "--prefix=x-49")
    assert len(ran.stdout.splitlines()) == 11
    ran = run("delete-all", "--app-id=a", "--prefix=x-", "--dry-run")
    assert ran.exit_code == 0 and len(ran.stdout.splitlines()) == 500 and "would delete 500 jobs" in ran.stderr
    ran = run("delete-all", "--app-id=a", "--prefix=x-")
    assert ran.exit_code == Exit.USAGE and "--yes" in ran.stderr and len(jobs(client)) == 1_000
    ran = run("delete-all", "--app-id=a", "--prefix=x-", "--yes")
    assert ran.exit_code == 0 and "deleted 500 jobs of a in default" in ran.stdout
    assert {one.name[0] for one in jobs(client)} == {"y"}
    ran = run("delete-all", "--app-id=a", "--prefix=zzz", "--yes")
    assert ran.exit_code == 0 and "there are no such jobs" in ran.stderr


@pytest.mark.parametrize(("answer", "left"), [(b"n\n", 1), (b"y\n", 0)])
def test_somebody_at_a_terminal_is_asked(client: Client, address: str, answer: bytes, left: int) -> None:
    schedule(client, "nightly")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "scheduler", "job", "delete-all", "--app-id=a", f"--address={address}"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs)
    try:
        seen = b""
        while b"[y/N]" not in seen:
            seen += os.read(ours, 1_000)
        assert b"nightly" in seen and b"Delete 1 jobs of a in default?" in seen
        os.write(ours, answer)
        assert process.wait(20) == left
        assert len(jobs(client)) == left
    finally:
        process.kill()
        process.communicate()
        os.close(ours)
        os.close(theirs)


def test_a_bar_is_drawn_where_a_terminal_shows_it(client: Client, address: str, tmp_path) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_text('{"appId": "a", "name": "x", "schedule": "@daily"}\n')
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "scheduler", "job", "import", str(file), f"--address={address}"]
    ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs, check=False, timeout=30)
    os.close(theirs)
    assert ran.returncode == 0 and b"1/1" in os.read(ours, 10_000)
    os.close(ours)


def test_schedule_takes_data_from_a_file_and_a_failure_policy(client: Client, run: Run, tmp_path) -> None:
    file = tmp_path / "data"
    file.write_bytes(b"\0\1")
    ran = run("schedule", "raw", "--app-id=a", "--due-time=1h", f"--data-file={file}", "--raw", "--failure-policy=drop")
    assert ran.exit_code == 0, ran.output
    ran = run(
        "schedule",
        "json",
        "--app-id=a",
        "--due-time=1h",
        "--data-file=-",
        "--retry-interval=10s",
        "--max-retries=5",
        input="[1]",
    )
    assert ran.exit_code == 0, ran.output
    json_job, raw_job = (one.job for one in jobs(client))
    assert raw_job.data.value == b"\0\1" and raw_job.failure_policy.WhichOneof("policy") == "drop"
    assert json_job.data == pack_value([1])
    constant = json_job.failure_policy.constant
    assert (constant.interval.seconds, constant.max_retries) == (10, 5)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--schedule=0 61 * * * *"], 1, "schedule: job failed validation: end of range (61)"),
        (["--due-time=soon"], 1, "due_time: "),
        (["--schedule=@daily", "--ttl=x"], 1, "ttl: "),
        (["--due-time=1s", "--data={"], 1, "--data is no JSON"),
        (["--due-time=1s", "--data=1", "--data-file=/dev/null"], 2, "one of them"),
        (["--due-time=1s", "--data-file=/nonexistent"], 2, "/nonexistent"),
        (["--due-time=1s", "--failure-policy=drop", "--max-retries=1"], 2, "--failure-policy constant"),
        (["--due-time=1s", "--retry-interval=1"], 1, "missing unit"),
        (["--due-time=1s", "--repeats=-1"], 2, "--repeats"),
    ],
)
def test_what_cannot_be_scheduled_is_told_by_field(run: Run, arguments: list[str], code: int, text: str) -> None:
    ran = run("schedule", "x", "--app-id=a", *arguments)
    assert ran.exit_code == code and text in ran.stderr
