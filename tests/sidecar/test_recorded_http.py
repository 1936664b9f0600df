"""Every recorded call to the reference's sidecar (tests/vectors/sidecar-http.jsonl), in order, against ours with a real scheduler.

`DIFFERENCES` is the one table of rows that differ on purpose.
"""

import http.client
import json
import re
import time
from pathlib import Path

import pytest

from tests.support.processes import Sidecar, wait_until

pytestmark = pytest.mark.e2e
ROWS = [
    json.loads(line) for line in (Path(__file__).parents[1] / "vectors" / "sidecar-http.jsonl").read_text().splitlines()
]

# (method and path, the parts of the answer that are ours, the reason); status, type and everything else are the reference's
DIFFERENCES: list[tuple[str, tuple[str, ...], str]] = [
    (
        "GET /v1.0/metadata",
        ("runtimeVersion", "enabledFeatures", "extended", "scheduler"),
        "our version, no preview features, and this run's own scheduler",
    ),
]


def call(port: int, row: dict) -> tuple[int, object, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3 if row.get("status") == 0 else 40)
    body = row.get("body")
    headers = {"content-type": row["request_content_type"]} if row.get("request_content_type") else {}
    if body is not None and (elided := re.fullmatch(r"\((\d+) bytes\)", body)):
        # The recording names only the size of its largest bodies.
        body = '{"dueTime": "2099-01-01T00:00:00Z", "data": "%s"}'
        body %= "x" * (int(elided.group(1)) - len(body) + 2)
    try:
        connection.request(
            row["method"], row["path"], body=body.encode() if body is not None else None, headers=headers
        )
        answer = connection.getresponse()
    except TimeoutError:
        return 0, row["answer"], row["content_type"]
    finally:
        if row.get("status") == 0:
            connection.close()
    text = answer.read().decode()
    connection.close()
    kind = answer.headers["content-type"]
    try:
        return answer.status, json.loads(text) if text else "", kind
    except ValueError:
        return answer.status, text, kind


def plain(answer: object) -> object:
    """The parser's own words differ from one JSON library to the next; everything else must be the same."""
    if isinstance(answer, dict) and answer.get("errorCode") == "ERR_MALFORMED_REQUEST":
        prefix = "failed deserializing HTTP body: "
        return {**answer, "message": answer["message"].startswith(prefix)}
    return answer


def test_every_recorded_call_has_the_same_answer(cluster, tmp_path: Path) -> None:
    one = cluster(1)
    sidecar = Sidecar(tmp_path / "sidecar", one.addresses, "--app-id=myapp").start()
    try:
        wait_until(
            lambda: call(sidecar.http_port, {"method": "GET", "path": "/v1.0/healthz"})[0] == 204,
            timeout_s=30,
            what="health",
        )
        wrong = []
        for number, row in enumerate(ROWS):
            if row.get("note") == "no scheduler":
                one.replicas[0].close()
            status, answer, kind = call(sidecar.http_port, row)
            deadline = time.monotonic() + 3
            # A job that will never fire is deleted a moment after its create, in both systems.
            while row["method"] == "GET" and status == 200 != row["status"] and time.monotonic() < deadline:
                time.sleep(0.05)
                status, answer, kind = call(sidecar.http_port, row)
            expected = row["answer"]
            for place, parts, _ in DIFFERENCES:
                if place == f"{row['method']} {row['path']}":
                    answer, expected = (
                        {key: value for key, value in shown.items() if key not in parts} for shown in (answer, expected)
                    )
            if (status, plain(answer), kind) != (row["status"], plain(expected), row["content_type"]):
                wrong.append((number, row, status, (kind, answer)))
        lines = [
            f"row {number}: {json.dumps(row)[:500]}\n   ours: {status} {json.dumps(answer)[:400]}"
            for number, row, status, answer in wrong
        ]
        assert not wrong, f"{len(wrong)} rows differ:\n" + "\n".join(lines[:40])
    finally:
        sidecar.close()
