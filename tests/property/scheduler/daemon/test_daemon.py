"""The whole daemon under random schedules of events, calls, lost and late answers, restarts and changing nodes.

The same seeds in every run; with `HYPOTHESIS_PROFILE=fresh` (`make fuzz`) other ones, for HEADROOM_FUZZ_SECONDS (an hour). A seed
that fails is played again by `python -m tests.property.scheduler.daemon SEED`.
"""

import os
import random
import time
from typing import Any

import pytest

from tests.property.scheduler.daemon.faults import FAULTS, finds
from tests.property.scheduler.daemon.play import play
from tests.property.scheduler.daemon.world import World

FRESH = os.environ.get("HYPOTHESIS_PROFILE", "fixed") != "fixed"
FRESH_SECONDS = float(os.environ.get("HEADROOM_FUZZ_SECONDS", "3600"))
SEEDS = range(16)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
def test_no_card_is_given_twice_and_no_pod_is_lost(seed: int) -> None:
    play(seed)


@pytest.mark.skipif(not FRESH, reason="make fuzz")
def test_the_same_with_fresh_seeds() -> None:
    until = time.monotonic() + FRESH_SECONDS
    played = 0
    while time.monotonic() < until:
        play(random.SystemRandom().randrange(2**32))
        played += 1
    assert played


def happened(world: World) -> list[tuple[Any, ...]]:
    """All but the time of day and the names of processes, which are written on objects."""
    return [
        (*about, body["metadata"]["name"], body.get("spec", {}).get("nodeName")) for *about, body in world.truth.log
    ]


@pytest.mark.parametrize("seed", SEEDS[:2])
def test_a_seed_gives_the_same_run_each_time(seed: int) -> None:
    first, second = play(seed, steps=60), play(seed, steps=60)
    assert first.steps == second.steps
    assert happened(first) == happened(second)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", ["s06", "s12", "s18", "s19", "s21", "s22", "s23", "s24", "s27", "s29"])
def test_a_mend_that_is_taken_back_is_missed(case: str) -> None:
    """Those that are found soon; `python -m tests.property.scheduler.daemon --faults` shows all."""
    assert case in FAULTS
    assert finds(case, seeds=40) is not None
