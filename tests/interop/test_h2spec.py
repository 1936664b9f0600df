"""h2spec, the HTTP/2 conformance tool, against our server; and strangers in Go and Node as clients of a real replica."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.processes import ROOT, Child, answers, free_port, wait_until

pytestmark = [pytest.mark.interop, pytest.mark.slow]
GO_BIN = ROOT / ".cache" / "go-bin"

# Cases that fail, each with its reason. A case that is not here and fails is a fault; one that is here and passes must go.
EXCUSED = {
    "causes their advertised concurrent stream limit to be exceeded": "each of its requests is complete and answered at once, so no two are ever open together",
    "Sends a WINDOW_UPDATE frame on half-closed (remote) stream": "the answer has ended the stream by then, and the tool waits for one more",
    "Sends a PRIORITY frame on half-closed (remote) stream": "as above",
}

SERVER = """
import asyncio, sys
from scheduler.http2.call import Unary
from scheduler.http2.server import Server

async def main() -> None:
    server = Server(methods={"/test/Echo": Unary(lambda request, call: call.reply(request))})
    await server.listen("127.0.0.1", int(sys.argv[1]))
    await asyncio.get_running_loop().create_future()

asyncio.run(main())
"""


def go_install(package: str, name: str) -> Path:
    """A Go command from the module registry, built once into the checkout's cache."""
    binary = GO_BIN / name
    if not binary.exists():
        GO_BIN.mkdir(parents=True, exist_ok=True)
        subprocess.run(["go", "install", package], check=True, env={**os.environ, "GOBIN": str(GO_BIN)}, timeout=600)
    return binary


def test_h2spec_passes_all_but_the_excused_cases(tmp_path: Path) -> None:
    h2spec = go_install("github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible", "h2spec")
    script = tmp_path / "server.py"
    script.write_text(textwrap.dedent(SERVER))
    port = free_port()
    server = Child(tmp_path / "server.log")
    server.spawn([sys.executable, str(script), str(port)], {"PYTHONPATH": str(ROOT)})
    try:
        wait_until(lambda: answers(port), timeout_s=20, what="the server answers")
        result = subprocess.run(
            [h2spec, "-p", str(port), "-o", "1"], capture_output=True, text=True, timeout=300, check=False
        )
    finally:
        server.close()
    summary = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", result.stdout)
    assert summary, result.stdout[-2000:] + server.tail()
    tests, passed, skipped, failed = map(int, summary.groups())
    cases = [re.sub(r"^.*× \d+: ", "", line).strip() for line in result.stdout.splitlines() if "×" in line]
    unexcused = {case for case in cases if not any(excuse in case for excuse in EXCUSED)}
    print(f"h2spec: {tests} tests, {passed} passed, {skipped} skipped, {failed} failed")
    assert not unexcused, result.stdout[-6000:]
    assert passed >= 135


def test_the_go_load_client_schedules_watches_and_acknowledges(cluster, tmp_path: Path) -> None:
    """grpc-go, by a client that shares no code with us; its sources lie beside the project where they are shared."""
    source = ROOT.parent / "shared" / "tools" / "load"
    if not source.is_dir():
        pytest.skip("the Go load client is not beside this checkout")
    work = tmp_path / "load"
    shutil.copytree(source, work)
    subprocess.run(["go", "build", "-o", str(tmp_path / "load-client"), "."], cwd=work, check=True, timeout=600)
    address = cluster(1).addresses[0]
    run = [
        str(tmp_path / "load-client"),
        "-addr",
        address,
        "-mode",
        "every",
        "-n",
        "200",
        "-for",
        "5s",
        "-spread",
        "1s",
        "-lead",
        "1s",
    ]
    result = subprocess.run(run, capture_output=True, text=True, timeout=120, check=True)
    assert re.search(r"every: 100[01] triggers of 1000 expected .* jobs 200 of 200", result.stdout), result.stdout


NODE_CLIENT = """
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const [address, protos] = process.argv.slice(2);
const definition = loader.loadSync('dapr/proto/scheduler/v1/scheduler.proto', { includeDirs: [protos], keepCase: true });
const { Scheduler } = grpc.loadPackageDefinition(definition).dapr.proto.scheduler.v1;
const client = new Scheduler(address, grpc.credentials.createInsecure());
const metadata = { app_id: 'node', namespace: 'default', target: { job: {} } };
const stream = client.WatchJobs();
stream.write({ initial: { app_id: 'node', namespace: 'default' } });
let got = 0;
stream.on('data', (trigger) => {
  stream.write({ result: { id: trigger.id, status: 'SUCCESS' } });
  got += 1;
  if (got === 3) { console.log('three triggers of ' + trigger.name); stream.cancel(); client.close(); process.exit(0); }
});
stream.on('error', (error) => { if (got < 3) { console.error(error); process.exit(1); } });
client.ScheduleJob({ name: 'tick', job: { schedule: '@every 1s', repeats: 3 }, metadata }, (error) => {
  if (error) { console.error(error); process.exit(1); }
});
setTimeout(() => { console.error('timed out with ' + got); process.exit(1); }, 20000);
"""


def test_grpc_js_schedules_watches_and_acknowledges(cluster) -> None:
    if shutil.which("npm") is None:
        assert os.environ.get("CI") != "true", "CI needs npm"
        pytest.skip("no npm on this machine")
    work = ROOT / ".cache" / "node"
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "node_modules" / "@grpc" / "grpc-js").exists():
        install = [
            "npm",
            "install",
            "--no-package-lock",
            "--no-audit",
            "--no-fund",
            "@grpc/grpc-js@1",
            "@grpc/proto-loader@0.7",
        ]
        subprocess.run(install, cwd=work, check=True, timeout=300, capture_output=True)
    (work / "client.js").write_text(NODE_CLIENT)
    run = ["node", "client.js", cluster(1).addresses[0], str(ROOT / "protos")]
    result = subprocess.run(run, cwd=work, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr + result.stdout
    assert "three triggers of tick" in result.stdout
