"""A schedule in the daemon, in virtual time: kept, reported, let go."""

from typing import Any

from autoscaler.api.resource import DECODER
from autoscaler.tick.explain import explain
from headroom.wire import encode
from tests.fakes.fleet import START, Fleet
from tests.fakes.scraping import vllm

# The fleet's clock begins on 15 January 2027 at 08:00 UTC, a Friday.
SOON = {"name": "soon", "start": "2 8 * * *", "end": "30 8 * * *", "timeZone": "Etc/UTC", "minReplicas": 6}


def condition(fleet: Fleet) -> tuple[str, str, str]:
    found = next(c for c in fleet.status()["conditions"] if c["type"] == "Scheduled")
    return found["status"], found["reason"], found["message"]


def fleet_of(replicas: int, running: float, **spec: Any) -> Fleet:
    fleet = Fleet()
    fleet.deployment(replicas=replicas)
    for pod in fleet.pods(replicas):
        fleet.scrape(pod, vllm(running))
    fleet.object(**spec)
    return fleet


async def test_a_window_opens_and_says_so() -> None:
    assert START == 1_800_000_000.0
    fleet = fleet_of(4, 9.0, schedule=[SOON])
    await fleet.tick(2)
    assert condition(fleet) == (
        "False",
        "NoWindowOpen",
        "next: soon keeps at least 6 replicas from 2027-01-15 08:02 Etc/UTC on",
    )
    assert fleet.replicas == 4
    await fleet.tick(8)
    assert fleet.replicas == 6
    assert condition(fleet) == ("True", "WindowOpen", "soon keeps at least 6 replicas until 2027-01-15 08:30 Etc/UTC")
    assert fleet.status()["history"][0]["message"] == "raised from 4 to 6: schedule soon keeps at least 6"
    assert [event["reason"] for event in fleet.kube.events] == ["SuccessfulRescale"]
    stored = {
        "metadata": {"name": "llm", "namespace": "default"},
        "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "llm"}, "maxReplicas": 20, "schedule": [SOON]},
        "status": fleet.status(),
    }
    assert "soon: at least 6 from '2 8 * * *' to '30 8 * * *', Etc/UTC" in explain(DECODER.decode(encode(stored)))
    await fleet.close()


async def test_nothing_is_written_while_no_window_changes() -> None:
    fleet = fleet_of(4, 9.0, schedule=[{**SOON, "start": "0 20 * * *", "end": "0 21 * * *"}])
    await fleet.tick(3)
    writes = len(fleet.kube.writes)
    await fleet.tick(20)
    assert len(fleet.kube.writes) == writes
    await fleet.close()


async def test_a_bad_schedule_is_told_of_and_touches_nobody_else() -> None:
    fleet = fleet_of(4, 9.0, schedule=[{**SOON, "timeZone": "Mars/Olympus"}])
    await fleet.tick(3)
    ready = next(c for c in fleet.status()["conditions"] if c["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "InvalidSpec")
    assert "spec.schedule[0].timeZone: 'Mars/Olympus' is not a time zone" in ready["message"]
    assert fleet.replicas == 4
    await fleet.close()
