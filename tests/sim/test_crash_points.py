"""A replica is killed before and after each step of its work, and comes back: nothing is lost, and what is repeated is allowed to be."""

import random

import pytest

from tests.sim.run import quiet
from tests.sim.world import World, run_seed

STEPS = (
    "lease grant", "member", "claim", "fire", "acknowledge", "commit", "checkpoint part", "checkpoint clean-up",
    "job put", "job delete", "release", "lease revoke",
)  # fmt: skip
RUNS = 3


class Killer:
    """Kills whoever takes a step, the first times that it is taken by then, and starts it again."""

    def __init__(self, world: World, step: str, when: str, rng: random.Random) -> None:
        self.world = world
        self.at = (step, when)
        self.rng = rng
        self.passed = rng.randrange(3)
        self.kills = 0
        world.server.step = self.step

    def step(self, label: str, when: str, client) -> None:
        # (A checkpoint's last part or a late commit is found by letting some pass.)
        if (label, when) != self.at or self.kills == 3 or not client.machine.alive:
            return
        if self.passed:
            self.passed -= 1
            return
        host = next(host for host in self.world.hosts if host.running and host.client is client)
        self.kills += 1
        self.passed = self.rng.randrange(5)
        self.world.log("killed", *self.at)
        host.crash()
        self.world.loop.later(self.rng.uniform(0.02, 2.0), self.boot, host)

    def boot(self, host) -> None:
        if not host.running:
            host.boot()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_replica_killed_at_a_step_loses_nothing(step: str, when: str) -> None:
    quiet()
    kills = 0
    for number in range(RUNS):
        killers: list[Killer] = []

        def prepare(world: World, killers: list[Killer] = killers) -> None:
            rng = world.chance("killer")
            killers.append(Killer(world, step, when, rng))
            # Hand-overs and stops take place, and nothing else goes wrong.
            world.faults.choose = lambda: {"stop": 6.0}
            world.faults.choose_lost = dict

        world = run_seed(7_000 + number, prepare=prepare)
        assert world.checker.violation is None, f"seed {world.seed}, killed {when} {step}: {world.checker.violation}"
        kills += killers[0].kills
    assert kills >= RUNS, "the step was hardly taken: this shows nothing"
