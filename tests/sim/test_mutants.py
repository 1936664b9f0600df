"""Each fault that is put into the product on purpose is found."""

import pytest

from tests.sim.mutants import MUTANTS, SEEDS_MAX, seeds_until_caught


@pytest.mark.parametrize("name", MUTANTS)
def test_the_mutant_is_caught(name: str) -> None:
    count, verdict = seeds_until_caught(name, 1)
    assert count, f"not in {SEEDS_MAX} seeds"
    print(f"{name}: {count} seeds, {verdict}")
