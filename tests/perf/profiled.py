"""The command `scheduler` with cProfile in it: `python -m tests.perf.profiled FILE serve ...` writes FILE at SIGUSR2.

It counts from SIGUSR1 on, or from the start where PROFILE_AT_ONCE is set.
"""

import cProfile
import os
import signal
import sys
import time
from pathlib import Path

from scheduler.cli import main


def prepare(file: Path) -> None:
    """Obey the two signals."""
    profiler = cProfile.Profile(time.thread_time)  # neither waiting nor other processes count

    def stop(*_: object) -> None:
        profiler.disable()
        profiler.dump_stats(f"{file}.part")
        Path(f"{file}.part").rename(file)

    signal.signal(signal.SIGUSR1, lambda *_: profiler.enable())
    signal.signal(signal.SIGUSR2, stop)
    if os.environ.get("PROFILE_AT_ONCE"):
        profiler.enable()


if __name__ == "__main__":
    prepare(Path(sys.argv.pop(1)))
    main()
