"""The daemon under whatever Prometheus and the cluster may say, for thousands of ticks.

Everything is drawn at random: labels, values, ages, faults, objects, pods. No exception, and no cut but on readings that are fresh, whole
and certain. `test_truth` is the other half.

Seeds are fixed; `make fuzz` (HYPOTHESIS_PROFILE=fresh) draws fresh ones and runs for longer. A failure names its seed:
`FUZZ_SEEDS=17 pytest tests/property/autoscaler`.
"""

import math
import random
from typing import Any

import pytest

from autoscaler.api.gateway import GatewayWire, read_gateway
from autoscaler.law.inputs import Freshness
from autoscaler.tick.outcome import Outcome
from tests.fakes.fleet import START, Fleet
from tests.fakes.scraping import (
    Target,
    exposition,
    grows,
    nothing,
    refused,
    sglang,
    together,
    vllm,
)
from tests.property.autoscaler.spoiled import SEEDS, TICKS, SpoiledPrometheus, fleet_of

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
GATEWAY = {"type": "dynamo", "model": "m"}
WINDOW = {"name": "w", "start": "*/7 * * * *", "end": "3/7 * * * *", "timeZone": "Asia/Kathmandu", "minReplicas": 1}
GATEWAY_ASK = read_gateway(GatewayWire(type="dynamo", model="m"), "default", lambda *_: AssertionError("a gateway"))
GATEWAY_QUERIES = tuple(GATEWAY_ASK.queries.values()) if GATEWAY_ASK else ()
ENGINES = ["vllm", "sglang", "tgi", "triton", "torchserve", "tensorflow-serving", "fastchat", "custom"]


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
