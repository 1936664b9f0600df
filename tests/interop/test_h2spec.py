"""h2spec, the HTTP/2 conformance tool, against our server."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.processes import ROOT, Child, answers, free_port, wait_until
from tests.support.toolchains import go_install

pytestmark = [pytest.mark.interop, pytest.mark.slow]

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


def test_h2spec_passes_all_cases(tmp_path: Path) -> None:
    h2spec = go_install("github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible", "h2spec")
    script = tmp_path / "server.py"
    script.write_text(textwrap.dedent(SERVER))
    port = free_port()
    server = Child(tmp_path / "server.log")
    server.spawn([sys.executable, str(script), str(port)], {"PYTHONPATH": str(ROOT)})
    try:
        wait_until(lambda: answers(port), timeout_s=30, what="the server answers")
        result = subprocess.run(
            [h2spec, "-p", str(port), "-o", "1"], capture_output=True, text=True, timeout=300, check=False
        )
    finally:
        server.close()
    summary = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", result.stdout)
    assert summary, result.stdout[-2000:] + server.tail()
    tests, passed, skipped, failed = map(int, summary.groups())
    print(f"h2spec: {tests} tests, {passed} passed, {skipped} skipped, {failed} failed")
    assert passed == tests >= 145, result.stdout[-6000:]
