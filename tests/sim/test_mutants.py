"""Each fault that is put into the product on purpose is found."""

import pytest

from tests.sim.mutants import MUTANTS, SEEDS_MAX, seeds_until_caught


@pytest.mark.parametrize("name", MUTANTS)
def test_the_mutant_is_caught(name: str) -> None:
    count, verdict = seeds_until_caught(name, 1)
    assert count, f"not in {SEEDS_MAX} seeds"
    # One that only breaks the program shows nothing, but where a process that ends is the fault.
    assert not verdict.startswith("crash") or name == "refused_step_ends_the_process", verdict
    print(f"{name}: {count} seeds, {verdict}")
