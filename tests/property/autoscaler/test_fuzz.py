"""The daemon under whatever Prometheus and the cluster may say, for thousands of ticks.

`chaos`: everything is drawn at random, labels, values, ages, faults, objects, pods. No exception, and no cut but on readings that
are fresh, whole and certain.
`truth`: what the pods hold is fixed and only what is seen of it is spoiled: pods scraped twice and under other labels, silent,
late or lying ones, nodes that are cut off, tenants that claim their names, answers that fail or lack a part. No cut below what the
truth needs, none by an answer that lacks a part or by the fewer half of the pods, no raise above it.

Seeds are fixed; `make fuzz` (HYPOTHESIS_PROFILE=fresh) draws fresh ones and runs for longer. A failure names its seed:
`FUZZ_SEEDS=17 pytest tests/property/autoscaler/test_fuzz.py`.
"""

import math
import os
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest

from autoscaler.api.gateway import GatewayWire, read_gateway
from autoscaler.law.inputs import Freshness
from autoscaler.tick.outcome import Outcome
from headroom.errors import HeadroomError
from headroom.prometheus.answer import Series
from headroom.prometheus.errors import PrometheusAnswerError, PrometheusTimeoutError, PrometheusUnreachableError
from tests.fakes.fleet import START, Fleet
from tests.fakes.scraping import (
    Answered,
    ScrapedPrometheus,
    Target,
    Value,
    exposition,
    grows,
    nothing,
    refused,
    sglang,
    together,
    vllm,
)

FRESH = os.environ.get("HYPOTHESIS_PROFILE") == "fresh"
TICKS = 2000 if FRESH else 500
SEEDS = [int(seed) for seed in os.environ.get("FUZZ_SEEDS", "").split(",") if seed] or (
    [random.SystemRandom().randrange(10**9) for _ in range(20)] if FRESH else list(range(10))
)
"""Ten seeds of 500 ticks for each of the two tests: 10,000 ticks."""
LABELS = [
    "job", "instance", "namespace", "pod", "exported_namespace", "exported_pod", "exported_instance", "exported_job", "cluster", "replica",
    "engine", "exported_engine", "model_name", "dp_rank", "tp_rank", "pid", "container", "node", "le", "UUID", "GPU_I_ID", "gpu", "team",
]  # fmt: skip
VALUES = [
    0.0,
    1.0,
    0.5,
    9.0,
    12.0,
    99.0,
    -1.0,
    1e7,
    1e9,
    1e18,
    1.7e308,
    -1.7e308,
    9.2e18,
    math.nan,
    math.inf,
    -math.inf,
    5e-324,
]
WORDS = [
    "",
    "a",
    "default",
    "other",
    "0",
    "7",
    "-1",
    "x" * 300,
    "ключ",
    "10.0.0.1:8000",
    "[fd00::1]:80",
    "10.0.0.2",
    "::",
    "[",
    "llm-5d9f-0",
]
FAULTS: list[HeadroomError] = [
    PrometheusUnreachableError("gone"), PrometheusTimeoutError("slow"), PrometheusAnswerError("status 502"), refused("too many samples"),
]  # fmt: skip
GATEWAY = {"type": "dynamo", "model": "m"}
WINDOW = {"name": "w", "start": "*/7 * * * *", "end": "3/7 * * * *", "timeZone": "Asia/Kathmandu", "minReplicas": 1}
GATEWAY_ASK = read_gateway(GatewayWire(type="dynamo", model="m"), "default", lambda *_: AssertionError("a gateway"))
GATEWAY_QUERIES = tuple(GATEWAY_ASK.queries.values()) if GATEWAY_ASK else ()
ENGINES = ["vllm", "sglang", "tgi", "triton", "torchserve", "tensorflow-serving", "fastchat", "custom"]


class Broken(Answered):
    """An answer that breaks off while it is read."""

    def __iter__(self) -> Iterator[Series]:
        for number, series in enumerate(list.__iter__(self)):
            if number > len(self) // 2:
                raise PrometheusAnswerError("no query result")
            yield series


class SpoiledPrometheus(ScrapedPrometheus):
    """Loses, repeats and breaks answers, as often as `spoil` says; each holds no more than `share` of its series, and says so."""

    dice: random.Random
    spoil = 0.0
    share = 1.0
    parted = False
    """Whether an answer about pods has lacked a part since this was last set to False."""

    async def ask(self, promql: str, timeout_seconds: float | None = None) -> Answered:
        answer = await super().ask(promql)
        if self.share < 1 and not promql.startswith("vector"):
            return self._part(answer, self.share, promql)
        if self.dice.random() >= self.spoil:
            return answer
        kind = self.dice.randrange(5)
        if kind == 0:
            raise self.dice.choice(FAULTS)
        if kind == 1 and not promql.startswith("vector"):
            return Broken(answer)
        if kind == 2:
            return self._part(answer, 0.7, promql)
        if kind == 3:
            return Answered(self.dice.sample(answer, len(answer)))
        return answer

    def _part(self, answer: Answered, share: float, promql: str) -> Answered:
        self.parted |= re.match(r"\{__name__=~.*\[\d+s\]$", promql) is not None and not promql.endswith("[300s]")
        return Answered([series for series in answer if self.dice.random() < share], ["a store is down"])


def fleet_of(seed: int, spoil: float) -> tuple[Fleet, SpoiledPrometheus, random.Random]:
    dice = random.Random(seed)
    prometheus = SpoiledPrometheus(START)
    prometheus.dice, prometheus.spoil = dice, spoil
    return Fleet(prometheus=prometheus), prometheus, dice


# Chaos


def some_labels(dice: random.Random) -> dict[str, Any]:
    return {name: dice.choice(WORDS) for name in dice.sample(LABELS, dice.randrange(6))}


def some_exposition(dice: random.Random) -> Any:
    value = lambda: dice.choice(VALUES) if dice.random() < 0.3 else dice.uniform(0, 20)  # noqa: E731
    names = ["DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_PROF_GR_ENGINE_ACTIVE", "headroom_card_utilization_ratio", "tgi_queue_size",
             "nv_gpu_utilization", "ts_queue_latency_microseconds", "headroom_fastchat_queue_length",
             "vllm:time_to_first_token_seconds_bucket", "vllm:kv_cache_usage_perc"]  # fmt: skip
    made = [
        lambda: vllm(
            value(), value(), value(), dice.uniform(0, 9), since=START - dice.uniform(0, 5000), **some_labels(dice)
        ),
        lambda: sglang(value(), value(), dice.choice([None, 1.0]), since=START - 500, **some_labels(dice)),
        lambda: nothing,
        lambda: exposition({dice.choice(names): value()}, **some_labels(dice)),
        lambda: exposition({"vllm:generation_tokens_total": grows(value(), START - 99, value())}, **some_labels(dice)),
    ]
    return together(*(dice.choice(made)() for _ in range(dice.randrange(1, 4))))


def some_target(dice: random.Random, now: float) -> Target:
    labels = {
        "namespace": "default",
        "pod": f"{dice.choice('ab')}-5d9f-{dice.randrange(6)}",
        "job": "j",
        "instance": "10.0.0.1:8000",
    }
    labels = {name: value for name, value in {**labels, **some_labels(dice)}.items() if value}
    every = dice.choice([1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0])
    until = math.inf if dice.random() < 0.5 else now + dice.uniform(0, 600)
    fails = dice.random() < 0.2
    return Target(
        labels, some_exposition(dice), every, dice.uniform(0, every), now - dice.uniform(0, 900), until,
        down=lambda time: fails and time % 7 > 3, honor_labels=dice.random() < 0.3, without_up=dice.random() < 0.3,
    )  # fmt: skip


def some_signals(dice: random.Random) -> list[dict[str, Any]] | None:
    kinds = ["work", "queue", "running", "kvCache", "gpuUtilization", "timeToFirstToken", "requestLatency", "query"]
    found = []
    for kind in dice.sample(kinds, dice.randrange(1, 4)):
        signal: dict[str, Any] = {
            "name": kind,
            "type": kind,
            "target": dice.choice(["0.5", "1", "10", "1n", "1e9", "0"]),
        }
        if kind == "query":
            signal |= {"query": "load", "metricType": dice.choice(["Value", "AverageValue"])}
        found.append(signal)
    return found if dice.random() < 0.8 else None


def some_object(fleet: Fleet, dice: random.Random, name: str) -> None:
    zero = (
        {"minReplicas": 0, "scaleToZero": {"activationQuery": "wake", "idleAfter": "1m"}} if dice.random() < 0.3 else {}
    )
    fleet.object(
        name,
        engine=dice.choice(ENGINES),
        signals=some_signals(dice),
        maxReplicas=dice.choice([1, 4, 30]),
        mode=dice.choice(["Auto", "Auto", "Advisory"]),
        work=dice.choice([None, {"secondsPerPromptToken": "0.0002", "secondsPerOutputToken": "0.0003"}]),
        objective=dice.choice([None, None, None, {}, {"timeToFirstToken": "500ms"}]),
        behavior={"scaleDown": {"stabilizationWindowSeconds": dice.choice([0, 60, 300])}},
        gateway=dice.choice([None, GATEWAY]),
        schedule=[WINDOW] if name == "b" else None,
        **zero,
    )


def some_pod(fleet: Fleet, dice: random.Random) -> None:
    owner = dice.choice("ab")
    name = f"{owner}-5d9f-{dice.randrange(6)}"
    kind = dice.random()
    if kind < 0.2:
        fleet.gone(name)
        return
    more: dict[str, Any] = {}
    if kind < 0.3:
        more["metadata"] = {"deletionTimestamp": "2027-01-15T08:00:00Z"}
    if kind > 0.9:
        more["containerStatuses"] = [
            {"name": "server", "restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
        ]
    fleet.pod(
        name, owner, ip=dice.choice(["", "10.0.0.1", "10.0.0.2", "fd00::1"]), ready=dice.random() < 0.8,
        ready_at=fleet.now - dice.uniform(-100, 5000), node=dice.choice(["", "n", "m"]), **more,
    )  # fmt: skip


def disturb(fleet: Fleet, prometheus: SpoiledPrometheus, dice: random.Random, restless: float) -> None:
    if dice.random() < restless:
        prometheus.targets.append(some_target(dice, fleet.now))
        if len(prometheus.targets) > 40:
            prometheus.targets.pop(dice.randrange(len(prometheus.targets)))
    if dice.random() < restless / 2:
        some_pod(fleet, dice)
    if dice.random() < (0.02 if len(fleet.outcomes) > 1 else 0.3):  # many are refused
        some_object(fleet, dice, dice.choice("abc"))
    if dice.random() < restless / 5:
        counts = {"replicas": dice.randrange(8), "updatedReplicas": dice.randrange(8)}
        fleet.deployment(
            dice.choice("ab"), replicas=dice.randrange(8), spec={"paused": dice.random() < 0.2}, status=counts
        )
    prometheus.late = dice.choice([0.0, 0.0, 0.0, 20.0, 90.0])
    prometheus.ahead = dice.choice([0.0, 0.0, 0.0, 600.0, -30.0])
    prometheus.custom = {
        "load": dice.choice([None, [1.0, 2.0], refused("no"), *VALUES]),
        "wake": dice.choice([None, 0.0, 1.0, *VALUES]),
        **{query: dice.choice([None, 0.0, 3.0, 40.0, [1.0, 2.0], *VALUES]) for query in GATEWAY_QUERIES},
    }


def may_be_lowered(outcome: Outcome) -> bool:
    """Whether every signal was fresh and whole; the bounds are the owner's word whatever the signals say."""
    spec, decision = outcome.target.spec, outcome.decision
    bounds = outcome.observation.replicas > spec.max_replicas or {"MaxGPUs", "GivenBack"} & {
        str(r.rule) for r in decision.reasons
    }
    activation = outcome.observation.activation
    known = activation is None or activation.state is Freshness.FRESH
    return bool(bounds) or (known and all(wish.state is Freshness.FRESH for wish in decision.wishes))


@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", SEEDS)
async def test_chaos(seed: int) -> None:
    fleet, prometheus, dice = fleet_of(seed, 0.1)
    restless = dice.choice([0.02, 0.1, 0.5])
    for name in "ab":
        fleet.deployment(name, replicas=dice.randrange(8))
        some_object(fleet, dice, name)
        for number in range(6):
            fleet.pod(f"{name}-5d9f-{number}", name, ip=f"10.0.1.{number}")
            serves = together(vllm(0.0, kv_cache=0.0, per_second=0.0), sglang(0.0, per_second=0.0))
            prometheus.targets.append(
                Target({"namespace": "default", "pod": f"{name}-5d9f-{number}", "job": "sane"}, serves)
            )
    prometheus.custom = {"load": 0.0, "wake": 0.0}
    decided = 0
    for tick in range(TICKS):
        disturb(fleet, prometheus, dice, restless)
        prometheus.share = dice.choice([0.3, 0.8]) if dice.random() < 0.1 else 1.0
        if dice.random() < 0.02:
            fleet.rescale(dice.randrange(8))
        await fleet.tick()
        assert fleet.failures() == 0, f"seed {seed}, tick {tick}"
        decided += len(fleet.outcomes)
        for key, outcome in fleet.outcomes.items():
            decision, before = outcome.decision, outcome.observation.replicas
            assert 0 <= decision.replicas <= 2**31 - 1
            if decision.replicas < before:
                assert may_be_lowered(outcome), (
                    f"seed {seed}, tick {tick}: {key} {before} -> {decision.replicas}: {decision.wishes}"
                )
    assert decided > TICKS // 2, "most objects were refused"
    await fleet.close()


# Truth


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
