"""One run, made repeatable."""

import asyncio
import contextlib
import gc
import logging
import random
from collections.abc import Iterator

import pytest
import structlog

from headroom.daemon import tasks
from headroom.daemon.slices import Slices
from tests.property.scheduler.daemon.virtual_time import VirtualLoop
from tests.property.scheduler.daemon.world import World


@contextlib.contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Nothing that a run meets depends on the machine: delays and ends of slices are drawn. No logs: there are thousands of faults."""
    tasks.JITTER.seed(seed)
    draws = random.Random(seed)
    before = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), cache_logger_on_first_use=False
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Slices, "over", property(lambda _: draws.random() < 0.3))
        yield
    structlog.configure(**before)


def play(seed: int, steps: int = 200, theme: str = "") -> World:
    """One run, of the theme that the seed draws unless one is named. Raises Broken."""
    with repeatable(seed), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        world = World(seed, theme)
        runner.run(world.run(steps))
    gc.unfreeze()
    return world
