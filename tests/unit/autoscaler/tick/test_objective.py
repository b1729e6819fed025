"""An objective in the daemon, in virtual time: read, kept, reported."""

from typing import Any

import pytest

from autoscaler.api.resource import DECODER
from autoscaler.tick.explain import explain
from headroom.wire import encode
from tests.fakes.fleet import LONG_AGO, Fleet
from tests.fakes.scraping import Exposes, histogram, together, vllm

COSTS = {"secondsPerPromptToken": "0.0001", "secondsPerOutputToken": "0.0004"}
"""A request of 500 and 100 tokens is 0.09 GPU seconds."""


def serving(per_second: float, late: float) -> Exposes:
    """A replica of which a share of the requests waits for longer than two seconds."""
    on_time = per_second * (1 - late)
    first = {"0.5": 0.9 * on_time, "1.0": on_time, "2.0": on_time, "5.0": per_second, "+Inf": per_second}
    between = {"0.05": per_second, "0.1": per_second, "+Inf": per_second}
    return together(
        vllm(6.0, kv_cache=0.2, per_second=per_second, since=LONG_AGO),
        histogram("vllm:time_to_first_token_seconds", first, LONG_AGO),
        histogram("vllm:request_time_per_output_token_seconds", between, LONG_AGO),
    )


def watched(fleet: Fleet, per_second: float, late: float = 0.0) -> None:
    fleet.deployment(replicas=4)
    for pod in fleet.pods():
        fleet.scrape(pod, serving(per_second, late))


async def test_a_tighter_objective_is_kept_by_more_replicas() -> None:
    counts = {}
    for limit in ("10s", "50ms"):
        fleet = Fleet()
        watched(fleet, 4.0)
        fleet.object(signals=None, work=COSTS, objective={"timeToFirstToken": limit}, mode="Advisory")
        await fleet.tick(4)
        counts[limit] = fleet.wish("work").up
    assert counts["10s"] < counts["50ms"]


async def test_whether_it_is_met_stands_in_status_condition_and_explain() -> None:
    fleet = Fleet()
    watched(fleet, 8.0, late=0.1)
    spec: dict[str, Any] = {"signals": None, "work": COSTS, "objective": {}, "minReplicas": 4, "maxReplicas": 4}
    fleet.object(**spec)
    await fleet.tick(40)
    status = fleet.status()
    assert float(status["objective"]["wanted"]) == 0.98
    assert float(status["objective"]["met"]) == pytest.approx(0.9, abs=0.02)
    condition = next(c for c in status["conditions"] if c["type"] == "ObjectiveMet")
    assert (condition["status"], condition["reason"]) == ("False", "Missed")
    assert "98 % are wanted" in condition["message"]
    target = {"scaleTargetRef": {"kind": "Deployment", "name": "llm"}, "maxReplicas": 4, "objective": {}}
    stored = {"metadata": {"name": "llm", "namespace": "default"}, "spec": target, "status": status}
    text = explain(DECODER.decode(encode(stored)))
    assert "the engine's default: " in text
    assert "with one replica more" in text


async def test_an_object_without_one_reads_no_histogram_and_says_nothing() -> None:
    fleet = Fleet()
    watched(fleet, 4.0)
    fleet.object(signals=None, work=COSTS)
    await fleet.tick(4)
    assert "objective" not in fleet.status()
    assert all(condition["type"] != "ObjectiveMet" for condition in fleet.status()["conditions"])


async def test_the_installation_gives_the_engines_default_to_those_that_state_none() -> None:
    fleet = Fleet(default_objective="engine")
    watched(fleet, 4.0)
    fleet.object(signals=None, work=COSTS)
    await fleet.tick(30)
    assert float(fleet.status()["objective"]["wanted"]) == 0.98
    assert float(fleet.status()["objective"]["met"]) > 0.99
