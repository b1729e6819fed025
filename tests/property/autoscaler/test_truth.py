"""The daemon while what the pods hold is fixed and only what is seen of it is spoiled, for thousands of ticks.

Pods scraped twice and under other labels, silent, late or lying ones, nodes that are cut off, tenants that claim their names, answers
that fail or lack a part. No cut below what the truth needs, none by an answer that lacks a part or by the fewer half of the pods, no raise
above it.

Seeds: as in `test_fuzz`.
"""

import math
import random
from typing import Any

import pytest

from tests.fakes.fleet import START, Fleet
from tests.fakes.scraping import (
    ScrapedPrometheus,
    Value,
    exposition,
    vllm,
)
from tests.property.autoscaler.spoiled import SEEDS, TICKS, SpoiledPrometheus, fleet_of


def spoiled_views(
    fleet: Fleet,
    prometheus: SpoiledPrometheus,
    dice: random.Random,
    pod: str,
    serves: Any,
    cut_off: list[tuple[float, float]],
) -> None:
    """One or two ways in which a pod is scraped; some of them are cut off for a while, all of them in the times of `cut_off`."""
    every = dice.choice([15.0, 30.0, 60.0])
    down_at = dice.uniform(0, TICKS * 15.0) if dice.random() < 0.4 else math.inf
    dark = lambda time: any(begin <= time < end for begin, end in cut_off)  # noqa: E731
    down = lambda time: down_at <= time - START < down_at + 900 or dark(time)  # noqa: E731
    fleet.scrape(pod, serves, target={"every": every, "phase": dice.uniform(0, every), "down": down})
    if dice.random() < 0.6:
        extra: dict[str, Any] = dict.fromkeys(
            dice.sample(["job", "replica", "team", "node", "service", "version", "tenant_id"], 2), "second"
        )
        since = START + dice.choice([-9000.0, dice.uniform(0, TICKS * 15.0)])
        until = since + dice.uniform(300, 9000)
        target = {
            "every": dice.choice([15.0, 60.0]),
            "phase": dice.uniform(0, 15),
            "since": since,
            "until": until,
            "down": dark,
        }
        fleet.scrape(pod, serves, target=target, **extra)
    if dice.random() < 0.3:
        claims = {"namespace": "default", "pod": pod}
        lies = exposition(
            {"vllm:num_requests_running": dice.choice([0.0, 500.0, -9.0]), "vllm:num_requests_waiting": 0.0}, **claims
        )
        fleet.scrape("attacker-0", lies, namespace="evil", job="podmon/evil", ip="10.6.6.6")


def lying(dice: random.Random, held: float) -> Value:
    """What a pod's gauge shows: for a while perhaps something that cannot be."""
    if dice.random() < 0.7:
        return held
    begin, value = START + dice.uniform(0, TICKS * 15.0), dice.choice([-20.0, -20.0, 1e12, math.nan])
    return lambda time: value if begin <= time < begin + 1800 else held


def is_seen(prometheus: ScrapedPrometheus, pod: str) -> bool:
    """Whether a sample of this pod, as young as its interval lets it be, is in Prometheus."""
    for target in prometheus.targets:
        if target.labels.get("pod") != pod:
            continue
        for key, points in target.series(prometheus.now).items():
            times = [time for time, _ in points if time <= prometheus.now - prometheus.late]
            bound = max(60.0, 2 * target.every + 15)
            if ("__name__", "vllm:num_requests_running") in key and times and prometheus.now - times[-1] <= bound:
                return True
    return False


WORK = {"secondsPerPromptToken": "0.0002", "secondsPerOutputToken": "0.0003"}
EACH = 0.13
"""GPU seconds of a request of the emulated vLLM at these prices."""
SPECS: list[dict[str, Any]] = [
    {"signals": [{"name": "running", "type": "running", "target": 10}, {"name": "kv", "type": "kvCache", "target": "0.9"}]},
    {"signals": [{"name": "running", "type": "running", "target": 10}]},
    {"signals": [{"name": "work", "type": "work", "target": "1"}], "work": WORK},
    {"signals": [{"name": "work", "type": "work", "target": "1"}], "work": WORK, "objective": {}},
]  # fmt: skip
"""The first two say how many replicas the truth needs; the others need no fewer than the GPU seconds per second of the work."""


def blackouts(dice: random.Random, count: int) -> list[tuple[float, float, int]]:
    """(begin, end, first pod that stays): for some minutes the pods before that one are not scraped, as when their node is cut off."""
    begins = [START + dice.uniform(0, TICKS * 15.0) for _ in range(4)]
    return [(begin, begin + dice.uniform(300, 1500), dice.randrange(1, count)) for begin in begins]


@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", SEEDS)
async def test_truth(seed: int) -> None:
    fleet, prometheus, dice = fleet_of(seed, 0.05)
    count, spec = dice.randrange(3, 9), SPECS[seed % len(SPECS)]
    by_requests = "work" not in spec
    fleet.deployment(replicas=count)
    held = sorted([dice.choice([0.0, 3.0, 7.0, 10.0]) for _ in range(count)], reverse=dice.random() < 0.7)
    pods, dark = fleet.pods(count), blackouts(dice, count)
    for number, pod in enumerate(pods):
        few, since = 0.01 + held[number] / (50 if by_requests else 1.5), START - 9000 - 100 * number
        shown = lying(dice, held[number])
        serves = vllm(shown, kv_cache=held[number] / 20, per_second=few, since=since)
        cut_off = [(begin, end) for begin, end, first in dark if number < first]
        spoiled_views(fleet, prometheus, dice, pod, serves, cut_off)
    fleet.object(maxReplicas=count, **spec)
    work = sum(0.01 + one / 1.5 for one in held) * EACH
    needed = max(math.ceil(sum(held) / 10 if by_requests else work), 1)
    whole_at = 0.0
    for tick in range(TICKS):
        if dice.random() < 0.05:
            prometheus.late = dice.choice([0.0, 0.0, 10.0, 90.0, 400.0])
        if dice.random() < 0.03:
            fleet.rescale(count)
        if dice.random() < 0.02:
            prometheus.share, whole_at = dice.choice([0.3, 0.8]), fleet.now + 600.0
        if fleet.now >= whole_at:
            prometheus.share = 1.0
        prometheus.parted = False
        before = fleet.replicas
        await fleet.tick()
        words = f"seed {seed}, tick {tick}: {held} need {needed}: {fleet.outcomes['default/llm'].decision.reasons}"
        assert fleet.failures() == 0, words
        assert needed <= fleet.replicas, words
        assert fleet.replicas <= (before if by_requests else count), words
        if fleet.replicas < before:
            assert not prometheus.parted, f"by a part: {words}"
            assert sum(is_seen(prometheus, pod) for pod in pods) * 2 >= count, f"by the few: {words}"
    await fleet.close()
