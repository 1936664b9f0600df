"""What goes wrong: each kind of fault is a process of its own that strikes at random; a seed has a random few of them, at rates of their own."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from tests.sim.replicas import Host
from tests.sim.sidecars import Sidecar

if TYPE_CHECKING:
    from tests.sim.world import World

Strike = Callable[[], Awaitable[None]]
# Faults that are worst together, and often: how many seconds lie between two strikes of each.
_THEMES = (
    {"cancel": 0.3, "delay": 2.0, "storm": 2.0, "compact": 4.0},
    {"cancel": 2.0, "sidecar": 3.0, "mood": 4.0},
    {"stop": 3.0, "reset": 2.0, "crash": 10.0},
    {"wall": 1.5, "pause": 5.0, "cut": 5.0},
    {"deaf": 1.0, "lag": 2.0},
)


class Faults:
    """The nemesis of one run."""

    def __init__(self, world: "World", rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.kinds: dict[str, Strike] = {
            name.removeprefix("_strike_"): getattr(self, name) for name in dir(self) if name.startswith("_strike_")
        }

    def choose(self) -> dict[str, float]:
        """A swarm: which faults this run has, and how many seconds lie between two strikes."""
        rng = self.rng
        if rng.random() < 0.08:
            return {}
        if rng.random() < 0.4:
            return {**rng.choice(_THEMES), rng.choice(list(self.kinds)): 8.0}
        share = rng.choice([0.15, 0.3, 0.5])
        return {name: rng.choice([4.0, 8.0, 16.0, 30.0]) for name in self.kinds if rng.random() < share}

    def choose_lost(self) -> dict[str, float]:
        """Steps whose answers get lost now and then."""
        steps = (
            "claim",
            "release",
            "commit",
            "checkpoint part",
            "checkpoint clean-up",
            "job delete",
            "job put",
            "member",
        )
        return {step: self.rng.choice([0.05, 0.3]) for step in steps if self.rng.random() < 0.15}

    async def run(self, name: str, mean_s: float) -> None:
        """Strike until cancelled."""
        while True:
            await asyncio.sleep(self.rng.expovariate(1.0 / mean_s))
            self.world.log("fault", name)
            await self.kinds[name]()

    def _host(self) -> Host:
        return self.rng.choice(self.world.hosts)

    def _sidecar(self) -> Sidecar:
        return self.rng.choice(self.world.sidecars)

    async def _trouble(self, hosts: list[Host], seconds: float) -> None:
        for host in hosts:
            host.begin_trouble()
        try:
            await asyncio.sleep(seconds)
        finally:
            for host in hosts:
                host.end_trouble()

    # Replicas

    async def _strike_pause(self) -> None:
        host = self._host()
        machine = host.machine
        if not host.running or machine.frozen is not None:
            return
        machine.freeze()
        seconds = self.rng.uniform(0.1, 3 * self.world.ttl_s)
        if self.rng.random() < 0.3:
            host.clock.set(-seconds, 0.0)  # a virtual machine's wall clock may stand still meanwhile
        try:
            await self._trouble([host], seconds)
        finally:
            self.world.log("thaw", host.name)
            host.thawed_s = self.world.loop.now
            if machine.alive:
                machine.thaw()

    async def _strike_crash(self) -> None:
        host = self._host()
        if not host.running:
            return
        host.crash()
        if self.rng.random() < 0.3:
            host.lease_file.lease = 0  # its disk is gone, too
        await asyncio.sleep(self.rng.choice([0.05, 1.0, 3.0, 10.0]) * self.rng.random())
        if not host.running:
            host.boot()

    async def _strike_stop(self) -> None:
        """A rolling restart's step."""
        host = self._host()
        host.drain()
        async with asyncio.timeout(None):
            while host.running and host.stopping:
                await asyncio.sleep(0.05)
        await asyncio.sleep(self.rng.uniform(0.05, 3.0))
        if not host.running:
            host.boot()

    async def _strike_wall(self) -> None:
        rng, host = self.rng, self._host()
        step_s = rng.uniform(-1, 1) * rng.choice([0.2, 1.0, 5.0])
        self.world.log("wall", host.name, step_s)
        host.clock.set(step_s, rng.choice([0.0, rng.uniform(-1e-3, 1e-3)]))

    # Links to etcd

    async def _strike_cut(self) -> None:
        host = self._host()
        if self.rng.random() < 0.3:
            host.clock.set(-self.rng.uniform(0.5, 4.0), 0.0)  # without the network its time is wrong, too
        await self._cut([host], [self.rng.uniform(0.2, 2.5 * self.world.ttl_s)])

    async def _cut(self, hosts: list[Host], seconds: list[float]) -> None:
        clients = [host.client for host in hosts]
        way = self.rng.random()
        for host, client in zip(hosts, clients, strict=True):
            host.begin_trouble()
            client.link.cut_up = way < 0.7
            client.link.cut_down = way > 0.4
        try:
            for host, client, wait_s in zip(hosts, clients, seconds, strict=True):
                await asyncio.sleep(wait_s)
                self.world.log("heal", host.name)
                self.world.server.heal(client)
        finally:
            for host, client in zip(hosts, clients, strict=True):
                self.world.server.heal(client)
                host.end_trouble()

    async def _strike_deaf(self) -> None:
        """What it sends reaches etcd and keeps its lease; nothing comes back, and it does not hear which jobs go."""
        host, clients = self._host(), self.world.clients
        host.begin_trouble()
        host.client.link.cut_down = True
        try:
            await asyncio.sleep(0.5)
            for name in self.rng.sample(clients.names, k=len(clients.names) // 3):
                if self.rng.random() < 0.2:
                    clients.delete(name)
                else:
                    clients.schedule(overwrite=True, name=name, job={"schedule": "@every 1s"})
            await asyncio.sleep(self.rng.uniform(0.7, 2.0) * self.world.ttl_s)
        finally:
            self.world.log("heal", host.name)
            self.world.server.heal(host.client)
            host.end_trouble()

    async def _strike_swizzle(self) -> None:
        """Cut one by one, heal in another order."""
        hosts = list(self.world.hosts)
        self.rng.shuffle(hosts)
        await self._cut(hosts, [self.rng.uniform(0.1, 3.0) for _ in hosts])

    async def _strike_loss(self) -> None:
        host = self._host()
        link = host.client.link
        link.loss = self.rng.choice([0.02, 0.05, 0.2])
        try:
            await self._trouble([host], self.rng.uniform(1.0, 10.0))
        finally:
            link.loss = 0.0

    async def _strike_delay(self) -> None:
        host = self._host()
        link = host.client.link
        link.delay_s = self.rng.choice([0.05, 0.3, 1.0, 1.5])
        try:
            await self._trouble([host], self.rng.uniform(1.0, 8.0))
        finally:
            link.delay_s = 0.0

    async def _strike_lag(self) -> None:
        """Watches lag behind."""
        host = self._host()
        link = host.client.link
        link.watch_delay_s = self.rng.choice([0.2, 1.0, 3.0])
        try:
            await self._trouble([host], self.rng.uniform(1.0, 8.0))
        finally:
            link.watch_delay_s = 0.0

    async def _strike_reset(self) -> None:
        self.world.server.reset(self._host().client)

    async def _strike_cancel(self) -> None:
        """The server cancels a watch."""
        host = self._host()
        watches = list(host.client.watches)
        if watches and host.running:
            await self._trouble([host], 0.0)
            self.world.server.cancel_watch(self.rng.choice(watches))

    # etcd

    async def _strike_compact(self) -> None:
        model = self.world.model
        revision = model.revision - self.rng.choice([0, 1, 3, 20])
        if revision > model.compacted:
            model.compact(revision)

    async def _strike_nospace(self) -> None:
        model = self.world.model
        model.nospace = True
        try:
            await self._trouble(self.world.hosts, self.rng.uniform(0.5, 10.0))
        finally:
            self.world.log("space again")
            model.nospace = False

    async def _strike_leader(self) -> None:
        """The leader stalls, or dies and another takes over."""
        server = self.world.server
        server.stall()
        seconds = self.rng.choice([0.3, 1.5, 3.0, 7.0]) * self.rng.random()
        elected = self.rng.random() < 0.5
        try:
            await self._trouble(self.world.hosts, seconds)
        finally:
            self.world.log("leader again", elected)
            server.resume(elected=elected)

    async def _strike_leases(self) -> None:
        """All leases lost at once, as etcd before 3.4.31 does after a stall."""
        server = self.world.server
        for lease_id in list(server.expires):
            server.end_lease(lease_id, "lost")
        await self._trouble(self.world.hosts, 0.5)

    # Sidecars

    async def _strike_sidecar(self) -> None:
        sidecar = self._sidecar()
        sidecar.crash(silently=self.rng.random() < 0.4)
        await asyncio.sleep(self.rng.uniform(0.05, 5.0))
        sidecar.start()

    async def _strike_mood(self) -> None:
        sidecar, rng = self._sidecar(), self.rng
        mood = rng.randrange(5)
        if mood == 0:
            sidecar.delay_s = (0.05, rng.choice([0.3, 2.0]))
        elif mood == 1:
            sidecar.failing = rng.choice([0.2, 0.7, 1.0])
        elif mood == 2:
            sidecar.forgetful = rng.choice([0.1, 1.0])
        elif mood == 3:
            sidecar.odd = 0.3
        else:
            for stream in sidecar.streams.values():
                stream.reading = False
        await asyncio.sleep(rng.uniform(1.0, 8.0))
        self.world.cheer(sidecar)

    # Work

    async def _strike_storm(self) -> None:
        """Many jobs due at one instant."""
        world = self.world
        due = world.wall_text(self.rng.uniform(0.5, 3.0))
        for _ in range(12):
            world.clients.schedule(overwrite=False, job={"due_time": due})
