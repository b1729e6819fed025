"""A gateway in the daemon, in virtual time: asked, counted, reported."""

from typing import Any

import pytest

from autoscaler.api.gateway import INSIDE, KNOWN, WAITING, GatewayWire, read_gateway
from autoscaler.api.resource import DECODER
from autoscaler.tick.explain import explain
from headroom.wire import encode
from tests.fakes.fleet import Fleet
from tests.fakes.scraping import refused, vllm

LLM_D = {"type": "llm-d", "pool": "chat"}
DYNAMO = {"type": "dynamo", "model": "org/chat-8b"}


def asked(gateway: dict[str, str]) -> dict[str, str]:
    """Its queries by name."""
    ask = read_gateway(GatewayWire(**gateway), "default", lambda *words: AssertionError(words))
    assert ask is not None
    return dict(ask.queries)


def says(fleet: Fleet, gateway: dict[str, str], **answers: Any) -> None:
    names = {"waiting": WAITING, "inside": INSIDE, "known": KNOWN}
    queries = asked(gateway)
    fleet.prometheus.custom.update({queries[names[name]]: answer for name, answer in answers.items()})


def condition(fleet: Fleet, name: str = "GatewayKnown") -> tuple[str, str]:
    found = next(c for c in fleet.status()["conditions"] if c["type"] == name)
    return found["status"], found["reason"]


def fleet_of(replicas: int, running: float = 0.0, **spec: Any) -> Fleet:
    fleet = Fleet()
    fleet.deployment(replicas=replicas)
    if replicas:
        for pod in fleet.pods(replicas):
            fleet.scrape(pod, vllm(running))
    fleet.object(**spec)
    return fleet


async def test_forty_requests_at_zero_wake_as_many_replicas_as_they_need() -> None:
    """An activation query brings back one, whatever waits."""
    fleet = fleet_of(0, gateway=LLM_D, minReplicas=0, scaleToZero={"idleAfter": "5m"})
    says(fleet, LLM_D, waiting=0.0)
    assert await fleet.tick(5) == [0] * 5
    assert condition(fleet) == ("True", "Reporting")
    says(fleet, LLM_D, waiting=40.0)
    assert await fleet.tick() == [4]
    assert fleet.status()["history"][0]["reason"] == "Woken"
    await fleet.close()


async def test_a_gateway_that_goes_away_and_comes_back() -> None:
    fleet = fleet_of(4, 9.0, gateway=LLM_D)
    says(fleet, LLM_D, waiting=0.0)
    await fleet.tick(3)
    says(fleet, LLM_D, waiting=None, known=None)
    await fleet.tick(20)
    assert condition(fleet) == ("False", "GatewayAway")
    assert fleet.replicas == 4
    assert [event["reason"] for event in fleet.kube.events].count("GatewayAway") == 1
    says(fleet, LLM_D, waiting=None, known=3.0)
    await fleet.tick()
    assert condition(fleet) == ("False", "PoolUnknown")
    says(fleet, LLM_D, waiting=refused("bad data"))
    await fleet.tick()
    assert condition(fleet) == ("False", "NoAnswer")
    says(fleet, LLM_D, waiting=20.0)
    await fleet.tick(30)
    assert condition(fleet) == ("True", "Reporting")
    await fleet.close()


async def test_what_waits_adds_to_what_is_inside_and_shows_in_explain() -> None:
    fleet = fleet_of(4, 9.0, gateway=LLM_D)
    says(fleet, LLM_D, waiting=30.0)
    await fleet.tick()
    assert fleet.replicas == 7  # 36 inside and 30 before them, 10 each
    stored = {
        "metadata": {"name": "llm", "namespace": "default"},
        "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "llm"}, "maxReplicas": 20},
        "status": fleet.status(),
    }
    assert "gateway" in explain(DECODER.decode(encode(stored)))
    await fleet.close()


@pytest.mark.parametrize(("inside", "replicas"), [(36.0, 4), (50.0, 5), (500.0, 6)])
async def test_of_dynamos_queue_counts_what_no_worker_has(inside: float, replicas: int) -> None:
    """36 requests are in the workers; the frontend's queue of 20 holds those that they prefill."""
    fleet = fleet_of(4, 9.0, gateway=DYNAMO)
    says(fleet, DYNAMO, waiting=20.0, inside=inside)
    await fleet.tick()
    assert fleet.replicas == replicas
    await fleet.close()


async def test_dynamo_at_zero_is_woken_by_something_else() -> None:
    fleet = fleet_of(0, gateway=DYNAMO, minReplicas=0, scaleToZero={"activationQuery": "ingress"})
    fleet.prometheus.custom["ingress"] = 0.0
    says(fleet, DYNAMO, known=1.0)
    await fleet.tick(3)
    assert condition(fleet) == ("Unknown", "NoWorkers")
    assert condition(fleet, "ScalingActive")[0] == "True"
    assert not fleet.kube.events
    fleet.prometheus.custom["ingress"] = 2.0
    assert await fleet.tick() == [1]
    await fleet.close()


async def test_an_object_without_a_gateway_has_no_such_condition() -> None:
    fleet = fleet_of(4, 9.0)
    await fleet.tick()
    assert "GatewayKnown" not in {c["type"] for c in fleet.status()["conditions"]}
    await fleet.close()
