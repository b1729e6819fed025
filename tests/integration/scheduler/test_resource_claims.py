"""Devices that kube-scheduler allocates (DRA), on the real control plane: slices and claims are written as drivers and users do,
and two kube-schedulers, the cluster's own and Headroom's, allocate from them.

K04 and K05 name rows of public reports (KAI PR#1177, NVIDIA/aicr#332, dra-driver-nvidia-gpu#738). With claims not followed, the
same steps give a card out twice: the tests would not pass without.
"""

import contextlib
import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from headroom.domain.model import GpuNode
from simulations.kwok.cluster import Cluster
from simulations.kwok.nodes import Description, node_manifest, uniform_nodes
from tests.fakes.devices import CLASSES, SLICES, device, device_class, resource_slice

GPU, VRAM = "nvidia.com/gpu", "headroom.dev/vram"
CARD_MIB = 81920
GIB = 1024
EXAMPLE = "gpu.example.com"
MOST_OF_A_CARD = {VRAM: "70Gi"}


def node_of(cards: int) -> GpuNode:
    (node,) = uniform_nodes(1, cards=cards, vram_mib=CARD_MIB, resource="")
    return node


def published(node: GpuNode, **more: Any) -> dict[str, Any]:
    return resource_slice(node.name, [device(f"gpu-{at}", card.id, **more) for at, card in enumerate(node.cards)])


def claim(name: str, **exactly: Any) -> dict[str, Any]:
    request = {"name": "gpu", "exactly": {"deviceClassName": "gpu.nvidia.com", **exactly}}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name},
        "spec": {"devices": {"requests": [request]}},
    }


def pod(name: str, limits: dict[str, str], scheduler: str = "headroom", claims: tuple[str, ...] = ()) -> dict[str, Any]:
    resources: dict[str, Any] = {"limits": limits} if limits else {}
    if claims:
        resources["claims"] = [{"name": each} for each in claims]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "schedulerName": scheduler,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "server", "resources": resources}],
            "resourceClaims": [{"name": each, "resourceClaimName": each} for each in claims],
        },
    }


class Space:
    """A namespace of the shared cluster, and the extender that is asked."""

    def __init__(self, cluster: Cluster, namespace: str, port: int) -> None:
        self.cluster, self.namespace, self._port = cluster, namespace, port

    def create(self, *objects: dict[str, Any]) -> None:
        self.cluster.apply(list(objects), self.namespace)

    def pod(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.cluster.api.get(f"/api/v1/namespaces/{self.namespace}/pods/{name}")
        return found

    def bound(self, name: str) -> dict[str, Any]:
        """The pod, once it is bound."""
        self.cluster.wait_for(
            lambda: self.pod(name)["spec"].get("nodeName"), f"{name} to be bound: {self.why(name)}", 60
        )
        return self.pod(name)

    def why(self, name: str) -> str:
        """kube-scheduler's words on a pod that waits."""
        conditions = self.pod(name)["status"].get("conditions", [])
        return "; ".join(each.get("message", "") for each in conditions)

    def refused(self, name: str, words: str) -> None:
        """Wait until a pod is refused in these words, and see that it stays so."""
        self.cluster.wait_for(lambda: words in self.why(name), f"{name} to be refused: {words}", 60)
        time.sleep(3)
        assert "nodeName" not in self.pod(name)["spec"]

    def held(self, node: str) -> list[int]:
        """MiB held on each card, as the extender has it."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/debug/snapshot?check", timeout=10) as answer:
            snapshot = json.load(answer)
        assert snapshot["breaches"] == [] or all("over-committed" in each for each in snapshot["breaches"])
        (found,) = (each for each in snapshot["fleet"]["nodes"] if each["name"] == node)
        return [card["held_mib"] for card in found["cards"]]

    def holds(self, node: str, mib: list[int]) -> None:
        self.cluster.wait_for(lambda: self.held(node) == mib, f"{mib} MiB to be held, not {self.held(node)}", 30)


@pytest.fixture
def space(cluster: Cluster, namespace: str, extender_port: int) -> Space:
    return Space(cluster, namespace, extender_port)


@pytest.fixture
def extender_with(cluster: Cluster, extender_port: int) -> Iterator[Callable[..., None]]:
    """Runs the extender that the shared kube-scheduler asks, with flags of the test's."""
    with contextlib.ExitStack() as stack:

        def run(*flags: str) -> None:
            url = f"http://127.0.0.1:{extender_port}/readyz"
            component = cluster.daemon("scheduler", "--port", str(extender_port), *flags, ready_url=url)
            stack.callback(component.stop)

        yield run


@pytest.fixture
def drivers(cluster: Cluster) -> Iterator[Callable[..., None]]:
    """Publishes classes and slices; they go with the test."""
    created: list[tuple[str, str]] = []

    def publish(*objects: dict[str, Any]) -> None:
        for each in objects:
            path = CLASSES if each["kind"] == "DeviceClass" else SLICES
            each["metadata"].pop("creationTimestamp", None)
            cluster.api.request("POST", path, each)
            created.append((path, each["metadata"]["name"]))

    yield publish
    cluster.api.delete_all((f"{path}/{name}" for path, name in created), {})


@pytest.mark.parametrize("by_uuid", [True, False])
def test_a_card_that_a_claim_holds_is_not_given_again(
    space: Space, gpu_nodes: Callable[..., None], extender_with: Callable[..., None], drivers: Callable[..., None], *, by_uuid: bool
) -> None:  # fmt: skip
    """K04: a claim of default-scheduler's on the node's only card, then 70 GiB through Headroom."""
    node = node_of(1)
    driver = "gpu.nvidia.com" if by_uuid else EXAMPLE
    slices = published(node) if by_uuid else resource_slice(node.name, [{"name": "gpu-0"}], driver=EXAMPLE)
    extender_with("--pin-claimable-cards", "true")
    drivers(device_class(resource=GPU, driver=driver, kind=""), slices)
    gpu_nodes([node])
    space.create(claim("one"), pod("claims", {"cpu": "1"}, "default-scheduler", ("one",)))
    space.bound("claims")
    space.create(pod("vram", MOST_OF_A_CARD))
    words = f"no card with {70 * GIB} MiB free" if by_uuid else "a resource claim may hold any of its cards"
    space.refused("vram", words)
    space.cluster.kubectl("delete", "pod", "claims", "-n", space.namespace, "--wait=false")
    space.bound("vram")


def test_without_following_claims_the_same_card_goes_out_twice(
    space: Space, gpu_nodes: Callable[..., None], extender_with: Callable[..., None], drivers: Callable[..., None]
) -> None:
    """K04 with the claims not followed: what the test above would see."""
    node = node_of(1)
    extender_with("--resource-claims", "false")
    drivers(device_class(resource=GPU, kind=""), published(node))
    gpu_nodes([node])
    space.create(claim("one"), pod("claims", {"cpu": "1"}, "default-scheduler", ("one",)))
    space.bound("claims")
    space.create(pod("vram", MOST_OF_A_CARD))
    space.bound("vram")


def test_pinned_pods_stay_off_cards_that_claims_may_get(
    space: Space, gpu_nodes: Callable[..., None], extender_with: Callable[..., None], drivers: Callable[..., None]
) -> None:
    node = node_of(1)
    extender_with()
    drivers(device_class(), published(node))
    gpu_nodes([node])
    space.create(pod("vram", {VRAM: "1Gi"}))
    space.refused("vram", "kube-scheduler gives its cards to resource claims (DRA)")


def test_an_extended_resource_that_a_class_maps(
    space: Space, gpu_nodes: Callable[..., None], extender_with: Callable[..., None], drivers: Callable[..., None]
) -> None:
    """K05, R21: nvidia.com/gpu: 1 through Headroom and through default-scheduler, until both cards are gone."""
    node = node_of(2)
    extender_with("--pin-claimable-cards", "true")
    drivers(device_class(resource=GPU), published(node))
    gpu_nodes([node])
    space.create(pod("ours", {GPU: "1"}))
    bound = space.bound("ours")
    assert bound["status"]["extendedResourceClaimStatus"]["resourceClaimName"].startswith("ours-extended-resources-")
    assert bound["metadata"]["annotations"]["headroom.dev/assigned-vram-share"] == "1.000"
    space.create(pod("theirs", {GPU: "1"}, "default-scheduler"))
    space.bound("theirs")
    space.holds(node.name, [CARD_MIB, CARD_MIB])
    space.create(pod("third", {GPU: "1"}), pod("vram", MOST_OF_A_CARD))
    space.refused("vram", f"no card with {70 * GIB} MiB free")
    assert "nodeName" not in space.pod("third")["spec"]
    space.cluster.kubectl("delete", "pod", "theirs", "-n", space.namespace, "--wait=false")
    space.cluster.wait_for(
        lambda: any(space.pod(name)["spec"].get("nodeName") for name in ("third", "vram")),
        "another to get the card",
        60,
    )
    space.cluster.wait_for(lambda: max(space.held(node.name)) <= CARD_MIB, "no card to be over-filled", 30)


def test_a_node_with_a_dra_driver_alone(
    space: Space, gpu_nodes: Callable[..., None], extender_with: Callable[..., None], drivers: Callable[..., None]
) -> None:
    """No agent, no device plugin, no feature discovery: slices are the inventory."""
    node = node_of(2)
    bare = node_manifest(node, Description.ANNOTATION)
    del bare["metadata"]["annotations"]["headroom.dev/cards"]
    extender_with()
    drivers(device_class(resource=GPU), published(node))
    gpu_nodes([bare])
    space.create(pod("both", {GPU: "2"}))
    space.bound("both")
    space.holds(node.name, [81037, 81037])
    space.create(pod("more", {GPU: "1"}))
    time.sleep(3)
    assert "nodeName" not in space.pod("more")["spec"]


def test_consumed_memory_and_a_burst_of_pods(
    space: Space, gpu_nodes: Callable[..., None], extender_with: Callable[..., None], drivers: Callable[..., None]
) -> None:
    """NVIDIA's --consumable-shares=memory: claims of 30 GiB each count as such; extended resources take what is left whole."""
    node = node_of(3)
    policy = {"default": "80Gi", "validRange": {"min": "1Mi", "max": "80Gi", "step": "1Mi"}}
    extender_with()
    drivers(device_class(resource=GPU), published(node, policy=policy))
    gpu_nodes([node])
    for name in ("a", "b"):
        space.create(
            claim(name, capacity={"requests": {"memory": "30Gi"}}), pod(name, {}, "default-scheduler", (name,))
        )
        space.bound(name)
    space.cluster.wait_for(lambda: sum(space.held(node.name)) == 60 * GIB, "60 GiB to be held", 30)
    untouched = sum(mib == 0 for mib in space.held(node.name))
    space.create(*(pod(f"p{at}", {GPU: "1"}) for at in range(4)))
    space.cluster.wait_for(
        lambda: sum(bool(space.pod(f"p{at}")["spec"].get("nodeName")) for at in range(4)) == untouched,
        "the rest to be given",
        60,
    )
    time.sleep(3)
    assert sum(bool(space.pod(f"p{at}")["spec"].get("nodeName")) for at in range(4)) == untouched
    assert max(space.held(node.name)) <= CARD_MIB
