"""The three harms that gangs do where pods are placed one by one, on the real control plane, with Kubernetes' own gangs switched on.

Three racks of two nodes with one card each; PodGroups are those of `scheduling.k8s.io`, whose number of members the extender reads.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from simulations.kwok.cluster import Cluster
from simulations.kwok.process import Component
from tests.fakes.extender_cluster import PODS, Setup, pod_asking

GATES = "--feature-gates=GenericWorkload=true,GangScheduling=true,TopologyAwareWorkloadScheduling=true"
GROUPS = "/apis/scheduling.k8s.io/v1alpha2/namespaces/default/podgroups"
RACK = "cloud.google.com/gce-topology-subblock"
Object = dict[str, Any]


class Gangs(Cluster):
    """A control plane with PodGroups."""

    api_flags = ("--runtime-config=scheduling.k8s.io/v1alpha2=true", GATES)

    def launch(self, name: str, command: Sequence[str], **options: Any) -> Component:
        gates = [GATES] if name == "kube-scheduler" else []
        return super().launch(name, [*command, *gates], **options)


@pytest.fixture(scope="module")
def world() -> Iterator[Setup]:
    started: list[Cluster] = []

    def start(nodes: Any, scheduler_config: Any) -> Cluster:
        racked = [replace(node, labels={"rack": f"r{at // 2}", RACK: f"r{at // 2}"}) for at, node in enumerate(nodes)]
        started.append(Gangs.start(nodes=racked, scheduler_config=scheduler_config))
        return started[-1]

    try:
        yield Setup(start, 6, 1, "--reservation-seconds", "1", "--preemption", "false")
    finally:
        for cluster in started:
            cluster.stop()


@pytest.fixture(autouse=True)
def tidy(world: Setup) -> Iterator[None]:
    yield
    api = world.cluster.api
    now = {"gracePeriodSeconds": 0}
    api.delete_all((f"{PODS}/{pod['metadata']['name']}" for pod in world.cluster.pods("default")), now)
    world.cluster.wait_for(lambda: not world.cluster.pods("default"), "the pods to go")
    world.cluster.wait_for(lambda: world.metric("headroom_reservations") == 0, "reservations to end")
    assert world.snapshot()["breaches"] == []


def group(name: str, size: int, *topology: str) -> Object:
    constraints = {"schedulingConstraints": {"topology": [{"key": key} for key in topology]}} if topology else {}
    return {
        "apiVersion": "scheduling.k8s.io/v1alpha2",
        "kind": "PodGroup",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"schedulingPolicy": {"gang": {"minCount": size}}, **constraints},
    }


def plain(name: str, of: str, size: int, within: str = "", **spec: Any) -> Object:
    """A member of a group of plain pods, which kube-scheduler knows nothing of."""
    pod = pod_asking(name, "70Gi", **spec)
    said = {"headroom.dev/group-topology": within} if within else {}
    pod["metadata"]["annotations"] = {"headroom.dev/group": of, "headroom.dev/group-size": str(size), **said}
    return pod


def bound(world: Setup) -> dict[str, str]:
    pods = world.cluster.pods("default")
    return {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in pods if pod["spec"].get("nodeName")}


def moved(world: Setup) -> float:
    return world.metric("headroom_reservations_ended_total", 'end="moved"')


def for_a_while(condition: Callable[[], bool], seconds: float = 4.0) -> bool:
    """Whether it holds from now on, through several turns of kube-scheduler."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not condition():
            return False
        time.sleep(0.25)
    return True


def test_a_gang_of_eight_on_six_cards_holds_none_of_them_and_a_small_pod_runs(world: Setup) -> None:
    world.create(*(plain(f"gang-{at}", "gang", 8) for at in range(8)))
    # Who was asked about before all were there is not asked about again as long as they do not fit.
    early, late = " of 8 members", "do not all fit together now"

    def refused() -> bool:
        told = [world.message(f"gang-{at}") for at in range(8)]
        return all(early in words or late in words for words in told) and any(late in words for words in told)

    world.cluster.wait_for(refused, "a reason on each pod")
    world.create(pod_asking("small", "70Gi"))
    world.wait_bound(1)
    assert for_a_while(lambda: list(bound(world)) == ["small"] and world.metric("headroom_reservations") == 0)
    # Two that are too many go, and so does the small one: what is left of the gang is fewer than it takes.
    world.cluster.api.delete_all(f"{PODS}/{name}" for name in ("small", "gang-6", "gang-7"))
    world.cluster.wait_for(lambda: "6 of 8 members" in world.message("gang-0"), "the missing members to be told of")
    assert bound(world) == {}
    world.create(*(plain(f"five-{at}", "five", 5) for at in range(5)))
    world.wait_bound(5)
    assert all(name.startswith("five-") for name in bound(world))


def test_trial_placements_of_the_pod_group_cycle_move_nothing(world: Setup) -> None:
    """kube-scheduler tries each rack, asks for each member in each, and tells nobody which trial it dropped."""
    before = moved(world)
    world.cluster.apply([group("pair", 2, "rack")])
    pods = [pod_asking(f"pair-{at}", "70Gi", schedulingGroup={"podGroupName": "pair"}) for at in range(2)]
    calls = world.filter_calls()
    world.create(*pods)
    world.wait_bound(2)
    assert world.filter_calls() - calls >= 6, "three racks, two members"
    assert {node.rsplit("-", 1)[1][-1] for node in bound(world).values()} in ({"0", "1"}, {"2", "3"}, {"4", "5"})
    assert moved(world) == before


def test_a_member_that_waits_between_filter_and_bind_keeps_its_room(world: Setup) -> None:
    """As at Permit: kube-scheduler has chosen the node and is silent for long, here because it waits for a volume."""
    world.cluster.apply([
        {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "slow"},
         "provisioner": "example.com/nobody", "volumeBindingMode": "WaitForFirstConsumer"},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "weights", "namespace": "default"},
         "spec": {"storageClassName": "slow", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}},
    ])  # fmt: skip
    claim = f"{PODS.rsplit('/', 1)[0]}/persistentvolumeclaims/weights"
    volumes = [{"name": "weights", "persistentVolumeClaim": {"claimName": "weights"}}]
    world.create(plain("slow-0", "slow", 6, volumes=volumes), *(plain(f"slow-{at}", "slow", 6) for at in range(1, 6)))
    world.wait_bound(5)
    world.cluster.wait_for(
        lambda: "volume.kubernetes.io/selected-node" in world.cluster.api.get(claim)["metadata"].get("annotations", {}),
        "kube-scheduler to wait for the volume",
    )
    world.create(pod_asking("thief", "70Gi"))
    world.wait_refused("thief")
    # Longer than the second for which a pod without a group keeps what it was offered.
    assert for_a_while(lambda: "thief" not in bound(world))
    assert world.metric("headroom_reservations") == 1
    volume = {
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "weights"},
        "spec": {"storageClassName": "slow", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
                 "hostPath": {"path": "/nothing"}, "claimRef": {"namespace": "default", "name": "weights"}},
    }  # fmt: skip
    world.cluster.apply([volume])
    world.cluster.wait_for(lambda: "slow-0" in bound(world), "the member that waited to be bound", 90)
    assert "thief" not in bound(world)


def test_a_pair_is_placed_in_one_rack_and_a_group_that_must_be_waits_for_one(world: Setup) -> None:
    def racks(*names: str) -> set[str]:
        label = {
            node["metadata"]["name"]: node["metadata"]["labels"][RACK]
            for node in world.cluster.api.items("/api/v1/nodes")
        }
        return {label[node] for name, node in bound(world).items() if name.startswith(names)}

    world.create(pod_asking("small", "70Gi"))
    world.wait_bound(1)
    world.create(*(plain(f"near-{at}", "near", 2) for at in range(2)))
    world.wait_bound(3)
    assert len(racks("near-")) == 1, "the card beside the small pod is left free"
    # Three cards are free, two of them in one rack.
    world.create(*(plain(f"must-{at}", "must", 3, "rack") for at in range(3)))
    world.cluster.wait_for(
        lambda: any("do not all fit together now in one rack" in world.message(f"must-{at}") for at in range(3)),
        "the reason",
    )
    assert for_a_while(lambda: len(bound(world)) == 3 and world.metric("headroom_reservations") == 0)
    world.cluster.api.delete_all(f"{PODS}/must-{at}" for at in range(3))
    world.create(*(plain(f"both-{at}", "both", 2, RACK) for at in range(2)))
    world.wait_bound(5)
    assert len(racks("both-")) == 1
    assert len(racks("both-", "near-", "small")) == 3
