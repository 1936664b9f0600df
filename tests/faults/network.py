"""Hosts made of network namespaces on a bridge of the run's own, and the ways to cut them. Everything is removed by `close`."""

import contextlib
import os
import subprocess

from tests.faults.machine import require


def _run(*command: str, check: bool = True) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


class Network:
    """One bridge, whose own address is where the rest of the run lives, and one namespace for each named host."""

    def __init__(self) -> None:
        """Raises MissingTool. The addresses follow from the process id, so that runs beside each other do not meet."""
        require("root", "ip", "nft")
        number = os.getpid() % 64_000
        self.run_id = f"f{os.getpid() % 100_000}"
        self.net = f"10.{64 + number // 256 % 128}.{number % 256}"
        self.gateway = f"{self.net}.1"
        self.bridge = f"{self.run_id}br"
        self.hosts: dict[str, str] = {}

    def open(self) -> "Network":
        _run("ip", "link", "add", self.bridge, "type", "bridge")
        _run("ip", "addr", "add", f"{self.gateway}/24", "dev", self.bridge)
        _run("ip", "link", "set", self.bridge, "up")
        return self

    def add(self, host: str) -> str:
        """A new host; its address."""
        number = len(self.hosts) + 10
        space, outer = self.space(host), f"{self.run_id}v{number}"
        _run("ip", "netns", "add", space)
        self.hosts[host] = f"{self.net}.{number}"
        _run("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", space)
        _run("ip", "link", "set", outer, "master", self.bridge, "up")
        _run("ip", "-n", space, "addr", "add", f"{self.hosts[host]}/24", "dev", "eth0")
        _run("ip", "-n", space, "link", "set", "eth0", "up")
        _run("ip", "-n", space, "link", "set", "lo", "up")
        return self.hosts[host]

    def space(self, host: str) -> str:
        return f"{self.run_id}-{host}"

    def inside(self, host: str) -> list[str]:
        """The beginning of a command that runs on that host."""
        return ["ip", "netns", "exec", self.space(host)]

    def cut(self, host: str, ports: list[int], how: str) -> None:
        """Cut a host from these ports of the rest: `both`, `in`, `out` (one-way drops), `reset`, or `loss30` (a random 30 %)."""
        among = "{" + ",".join(map(str, ports)) + "}"
        verdict = {"reset": "reject with tcp reset", "loss30": "drop"}.get(how, "drop")
        chance = "numgen random mod 100 < 30 " if how == "loss30" else ""
        rules = ["table inet cut {"]
        if how != "out":
            rules.append(f"chain i {{ type filter hook input priority 0; tcp sport {among} {chance}drop; }}")
        if how != "in":
            rules.append(f"chain o {{ type filter hook output priority 0; tcp dport {among} {chance}{verdict}; }}")
        if how == "reset":
            rules = [rules[0], rules[-1]]
        rules.append("}")
        done = subprocess.run(
            [*self.inside(host), "nft", "-f", "-"], input="\n".join(rules), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"nft: {done.stderr}")

    def heal(self, host: str) -> None:
        _run(*self.inside(host), "nft", "delete", "table", "inet", "cut", check=False)

    def close(self) -> None:
        for host in self.hosts:
            with contextlib.suppress(Exception):
                _run("ip", "netns", "del", self.space(host), check=False)
        _run("ip", "link", "del", self.bridge, check=False)
