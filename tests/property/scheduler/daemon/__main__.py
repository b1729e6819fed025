"""`python -m tests.property.scheduler.daemon SEED...` plays single seeds; `--faults [CASE...]` takes mends back, one by one.

With `--faults` it prints for each mend the first seed that misses it, or that none of `--seeds` does (exit status 1).
"""

import argparse
import sys
import time

from tests.property.scheduler.daemon.faults import FAULTS, finds
from tests.property.scheduler.daemon.play import play
from tests.property.scheduler.daemon.world import Broken


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.property.scheduler.daemon", description=__doc__)
    parser.add_argument("what", nargs="*", help="seeds, or cases with --faults")
    parser.add_argument("--faults", action="store_true", help="take the mends back instead")
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds to try for each mend")
    options = parser.parse_args()
    return _faults(options.what or list(FAULTS), options.seeds) if options.faults else _seeds(options.what)


def _seeds(seeds: list[str]) -> int:
    status = 0
    for seed in seeds:
        try:
            play(int(seed))
        except Broken as broken:
            print(broken)
            status = 1
        else:
            print(f"seed {seed}: nothing is wrong")
    return status


def _faults(cases: list[str], seeds: int) -> int:
    missed = 0
    for case in cases:
        began = time.monotonic()
        broken = finds(case, seeds)
        missed += broken is None
        said = str(broken).split("\n", 1)[0] if broken else f"none of {seeds} seeds finds it"
        print(f"{case:12} {time.monotonic() - began:6.1f} s  {said}", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
