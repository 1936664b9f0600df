"""`python -m tests.sim --seeds 3000 --processes 2`; `--seed N --trace` replays one."""

import argparse
import sys

from tests.sim.run import Report, kept_seeds, quiet, replay, run_many
from tests.sim.world import run_seed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3_000, help="how many")
    parser.add_argument("--start", type=int, default=1, help="the first one")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--hashes", action="store_true", help="print each seed's hash of all that happened, here and now"
    )
    parser.add_argument("--seed", type=int, help="run this one alone and print the last events of the job concerned")
    parser.add_argument("--trace", action="store_true", help="with --seed: print every event")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return int(replay(arguments.seed, everything=arguments.trace).checker.violation is not None)
    if arguments.hashes:
        quiet()
        for seed in range(arguments.start, arguments.start + arguments.seeds):
            print(seed, run_seed(seed).trace_hash())
        return 0
    seeds = [*dict.fromkeys([*kept_seeds(), *range(arguments.start, arguments.start + arguments.seeds)])]
    report = Report(len(seeds))
    for result in run_many(seeds, arguments.processes):
        report.take(result)
    for result in sorted(report.failed)[:1]:
        print(
            f"\nthe last events of seed {result.seed}; all of them: python -m tests.sim --seed {result.seed} --trace\n"
        )
        replay(result.seed, everything=False)
    return int(bool(report.failed))


if __name__ == "__main__":
    sys.exit(main())
